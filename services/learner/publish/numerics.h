#pragma once

#include <string>

#include "rollcall/v1/identity.pb.h"

namespace rollcall::learner {

// Whether two processes compute equal bits from equal inputs.
bool SameNumerics(const v1::NumericsFingerprint& a, const v1::NumericsFingerprint& b);

// "cpu-fma bfloat16, kernel revision 2, layout 1".
std::string Describe(const v1::NumericsFingerprint& numerics);

}  // namespace rollcall::learner
