#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/model/kernels/kernels.h"

namespace rollcall::model::testing {

// While one of these lives, one kernel of this process breaks the rule of its folder: one element
// of its result, one bit of it, depends on what shares the call. Tests of exactness must fail
// then. No kernel may run when it is made or goes; one at a time.
class BatchDependentKernel {
 public:
  // `name`: one of Names().
  explicit BatchDependentKernel(std::string_view name);
  ~BatchDependentKernel();
  BatchDependentKernel(const BatchDependentKernel&) = delete;
  BatchDependentKernel& operator=(const BatchDependentKernel&) = delete;

  // Every kernel that a forward pass runs; the last two only those of a mixture of experts.
  static std::vector<std::string> Names();

 private:
  kernels::KernelTable broken_;
};

}  // namespace rollcall::model::testing
