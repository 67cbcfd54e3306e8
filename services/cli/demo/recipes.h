#pragma once

#include <cstdint>
#include <string>

namespace rollcall::cli {

// The demo's two recipes as YAML, written into its folder, so that what ran can be read, changed
// and run again.
std::string DemoSftYaml(const std::string& folder, uint64_t seed);
std::string DemoGrpoYaml(const std::string& folder, uint64_t seed);

// config.json of the demo's model: d 128, 2 layers, 4 heads, SwiGLU 256, vocabulary 16, untied
// head; 332,416 parameters.
std::string DemoModelConfig();

// Sizes of the generated files that the recipes need.
inline constexpr size_t kDemoSftSteps = 700;
inline constexpr size_t kDemoSftBatch = 64;
inline constexpr size_t kDemoRlSteps = 40;
inline constexpr size_t kDemoRlPrompts = 32;

}  // namespace rollcall::cli
