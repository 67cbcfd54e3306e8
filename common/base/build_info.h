#pragma once

#include <string_view>

namespace rollcall {

// The version of this build, as in CMakeLists.txt: "0.1.0".
std::string_view Version();

// "release", "relwithdebinfo", …: the build type, lower case.
std::string_view BuildType();

}  // namespace rollcall
