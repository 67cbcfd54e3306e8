#pragma once

namespace rollcall::learner {

// The decimal that a configuration's float was written as, in float64: 0.999f is 0.99900001287…,
// and 1 - beta2 would be off by 1.3e-5 of itself. The shortest decimal that rounds to `value`.
double WrittenNumber(float value);

}  // namespace rollcall::learner
