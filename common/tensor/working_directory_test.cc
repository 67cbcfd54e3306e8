#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace {

// Runs this program's list of tests in a new directory, removed before it starts if `removed`.
// Returns its exit code, and what it wrote to stderr in `errors`.
int ListTestsIn(bool removed, std::string* errors) {
  std::string directory = ::testing::TempDir() + "/working_directory.XXXXXX";
  EXPECT_NE(mkdtemp(directory.data()), nullptr);
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    if (chdir(directory.c_str()) != 0 || (removed && rmdir(directory.c_str()) != 0)) _exit(100);
    dup2(ends[1], STDERR_FILENO);
    execl("/proc/self/exe", "tensor_test", "--gtest_list_tests", nullptr);
    _exit(101);
  }
  close(ends[1]);
  char buffer[512];
  for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof(buffer))) > 0;) {
    errors->append(buffer, static_cast<size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  if (!removed) rmdir(directory.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(WorkingDirectoryTest, AProgramThatStartsInARemovedDirectorySaysSo) {
  std::string errors;
  EXPECT_EQ(ListTestsIn(/*removed=*/true, &errors), 2);
  EXPECT_THAT(errors, ::testing::HasSubstr("the working directory does not exist any more"));
  errors.clear();
  EXPECT_EQ(ListTestsIn(/*removed=*/false, &errors), 0) << errors;
}

}  // namespace
