#include "common/config/sampling_request.h"

namespace rollcall::config {

v1::SamplingParams SamplingParamsOf(const v1::SamplingSection& sampling) {
  v1::SamplingParams params;
  params.set_temperature(sampling.temperature());
  params.set_top_k(sampling.top_k());
  params.set_top_p(sampling.top_p());
  params.set_min_p(sampling.min_p());
  params.set_max_tokens(sampling.max_tokens());
  params.set_min_tokens(sampling.min_tokens());
  params.set_repetition_penalty(sampling.repetition_penalty());
  params.set_presence_penalty(sampling.presence_penalty());
  params.set_frequency_penalty(sampling.frequency_penalty());
  params.set_no_repeat_ngram_size(sampling.no_repeat_ngram_size());
  return params;
}

v1::StopConditions StopConditionsOf(const v1::SamplingSection& sampling) {
  v1::StopConditions stop;
  *stop.mutable_token_ids() = sampling.stop_token_ids();
  *stop.mutable_strings() = sampling.stop();
  stop.set_ignore_eos(sampling.ignore_eos());
  return stop;
}

}  // namespace rollcall::config
