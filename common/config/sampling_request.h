#pragma once

#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/generator.pb.h"

namespace rollcall::config {

// What a generator is asked for by a configuration's section `sampling`.
v1::SamplingParams SamplingParamsOf(const v1::SamplingSection& sampling);
v1::StopConditions StopConditionsOf(const v1::SamplingSection& sampling);

}  // namespace rollcall::config
