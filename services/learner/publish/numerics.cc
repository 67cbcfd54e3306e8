#include "services/learner/publish/numerics.h"

#include "absl/strings/str_cat.h"

namespace rollcall::learner {

bool SameNumerics(const v1::NumericsFingerprint& a, const v1::NumericsFingerprint& b) {
  return a.kernel_revision() == b.kernel_revision() && a.arithmetic() == b.arithmetic() &&
         a.dtype() == b.dtype() && a.parallel_layout() == b.parallel_layout();
}

std::string Describe(const v1::NumericsFingerprint& numerics) {
  return absl::StrCat(numerics.arithmetic(), " ", numerics.dtype(), ", kernel revision ",
                      numerics.kernel_revision(), ", layout ", numerics.parallel_layout());
}

}  // namespace rollcall::learner
