#include "common/base/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "absl/strings/str_split.h"

namespace rollcall {
namespace {

using testing::EndsWith;
using testing::MatchesRegex;

std::string Captured(void (*log)()) {
  testing::internal::CaptureStderr();
  log();
  return testing::internal::GetCapturedStderr();
}

TEST(LoggingTest, WritesTimeLevelServiceMessageAndFields) {
  ASSERT_TRUE(InitLogging("generator", "info").ok());
  const std::string line = Captured([] {
    LogInfo("weights committed", {{"step", uint64_t{3}},
                                  {"seconds", absl::Milliseconds(250)},
                                  {"ok", true},
                                  {"loss", -0.5},
                                  {"run", "demo"}});
  });
  EXPECT_THAT(line, MatchesRegex("[0-9]+-[0-9]+-[0-9]+T[0-9]+:[0-9]+:[0-9]+\\.[0-9]+Z info "
                                 "generator weights committed step=3 seconds=0.25 ok=true "
                                 "loss=-0.5 run=demo\n"));
}

TEST(LoggingTest, EscapesSoThatAnEventIsOneLine) {
  ASSERT_TRUE(InitLogging("s", "info").ok());
  const std::string line = Captured([] {
    LogWarning("first\nsecond {} %s", {{"text", "a \"b\"\n\tc"}, {"empty", ""}, {"word", "ü"}});
  });
  EXPECT_THAT(line,
              EndsWith("warning s first\\nsecond {} %s text=\"a \\\"b\\\"\\n\\tc\" empty=\"\" "
                       "word=ü\n"));
}

TEST(LoggingTest, StatusIsQuoted) {
  ASSERT_TRUE(InitLogging("s", "info").ok());
  EXPECT_THAT(Captured([] {
                LogError("failed", {{"status", absl::NotFoundError("no file")}});
              }),
              EndsWith("error s failed status=\"NOT_FOUND: no file\"\n"));
}

TEST(LoggingTest, LevelsFilter) {
  ASSERT_TRUE(InitLogging("s", "error").ok());
  EXPECT_EQ(Captured([] {
              LogDebug("a");
              LogInfo("b");
              LogWarning("c");
            }),
            "");
  ASSERT_TRUE(InitLogging("s", "debug").ok());
  EXPECT_THAT(Captured([] { LogDebug("a"); }), EndsWith("debug s a\n"));
  EXPECT_EQ(InitLogging("s", "loud").message(),
            "log level: expected debug, info, warn, error or off, got \"loud\"");
  EXPECT_THAT(Captured([] { LogDebug("still"); }), EndsWith("still\n"));
}

}  // namespace
}  // namespace rollcall
