#pragma once

#include <grpcpp/grpcpp.h>

#include "rollcall/v1/generator.grpc.pb.h"
#include "rollcall/v1/identity.pb.h"
#include "services/generator/engine/engine.h"
#include "services/generator/request_validation.h"

namespace rollcall::generator {

// rollcall.v1.Generator over an engine: checks each request and lets a GenerateStream carry it.
class GeneratorService final : public v1::Generator::CallbackService {
 public:
  // `engine` must outlive the calls.
  GeneratorService(Engine* engine, RequestLimits limits, v1::NumericsFingerprint numerics,
                   EngineMetrics* metrics);

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;

 private:
  Engine* const engine_;
  const RequestLimits limits_;
  const v1::NumericsFingerprint numerics_;
  EngineMetrics* const metrics_;
};

}  // namespace rollcall::generator
