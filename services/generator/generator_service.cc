#include "services/generator/generator_service.h"

#include <utility>

#include "services/generator/generate_stream.h"

namespace rollcall::generator {

GeneratorService::GeneratorService(Engine* engine, RequestLimits limits,
                                   v1::NumericsFingerprint numerics, EngineMetrics* metrics)
    : engine_(engine),
      limits_(std::move(limits)),
      numerics_(std::move(numerics)),
      metrics_(metrics) {}

grpc::ServerWriteReactor<v1::GenerateResponse>* GeneratorService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  absl::StatusOr<GenerationRequest> parsed = ParseGenerateRequest(*request, limits_);
  if (!parsed.ok()) metrics_->requests_invalid.Increment();
  const std::shared_ptr<GenerateStream> stream =
      GenerateStream::Create(engine_, context, numerics_);
  stream->Start(std::move(parsed));
  return stream.get();
}

}  // namespace rollcall::generator
