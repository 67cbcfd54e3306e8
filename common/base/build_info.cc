#include "common/base/build_info.h"

namespace rollcall {

std::string_view Version() { return ROLLCALL_VERSION; }

std::string_view BuildType() { return ROLLCALL_BUILD_TYPE; }

}  // namespace rollcall
