#include "services/learner/data/row_columns.h"

#include "absl/strings/str_cat.h"
#include "services/learner/data/column_path.h"

namespace rollcall::learner {
namespace {

// Names shown of a row's own columns.
constexpr size_t kShownColumns = 8;

}  // namespace

std::string ColumnsShown(const nlohmann::json& row) {
  std::string names;
  size_t shown = 0;
  for (const auto& [name, value] : row.items()) {
    if (shown == kShownColumns) return names + ", …";
    absl::StrAppend(&names, shown++ > 0 ? ", " : "", name.substr(0, 40));
  }
  return names.empty() ? "none" : names;
}

FoundColumn FindPrompt(const v1::DataSection& data, const nlohmann::json& row) {
  for (const std::string* name :
       {&data.prompt_column(), &data.messages_column(), &data.question_column()}) {
    if (const nlohmann::json* value = FindColumn(row, *name)) return {*name, value};
  }
  return {};
}

FoundColumn FindAnswer(const v1::DataSection& data, const nlohmann::json& row) {
  if (!data.answer_column().empty()) {
    return {data.answer_column(), FindColumn(row, data.answer_column())};
  }
  for (const char* name : {"answer", "ground_truth", "reward_model.ground_truth"}) {
    if (const nlohmann::json* value = FindColumn(row, name)) return {name, value};
  }
  return {};
}

absl::Status NoPrompt(const v1::DataSection& data, const RowPlace& place,
                      const nlohmann::json& row) {
  return place.Error(absl::StrCat("expected a column \"", data.prompt_column(), "\", \"",
                                  data.messages_column(), "\" or \"", data.question_column(),
                                  "\", the row has: ", ColumnsShown(row),
                                  "; name it by data.prompt_column"));
}

}  // namespace rollcall::learner
