#include "common/config/yaml_tree.h"

#include <yaml-cpp/anchor.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <exception>
#include <map>
#include <optional>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::config {
namespace {

// Thrown by TreeBuilder through yaml-cpp's parser, whose only way to stop early is an exception.
struct TreeError {
  int line;
  std::string message;
};

// Builds a YamlNode from the parser's events.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, std::string_view name) : text_(text), name_(name) {}

  YamlNode Take() { return root_ ? *std::move(root_) : YamlNode(); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (TakeKey(mark, "")) return;
    Add(mark, anchor, YamlNode());
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    CheckQuotes(mark);
    if (TakeKey(mark, value)) return;
    YamlNode node;
    node.kind = YamlNode::Kind::kScalar;
    node.scalar = value;
    node.style = tag == "!" ? YamlNode::Style::kQuoted : YamlNode::Style::kPlain;
    Add(mark, anchor, std::move(node));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    auto it = anchors_.find(anchor);
    if (it == anchors_.end()) throw TreeError{mark.line, "an alias cannot stand for what holds it"};
    if (WantsKey()) throw TreeError{mark.line, "expected a name as the key, got an alias"};
    YamlNode copy = it->second;
    CountNodes(mark, copy, static_cast<int>(open_.size()));
    Attach(std::move(copy));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(mark, anchor, YamlNode::Kind::kList);
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(mark, anchor, YamlNode::Kind::kMap);
  }
  void OnMapEnd() override { Close(); }

 private:
  struct OpenNode {
    YamlNode node;
    YAML::anchor_t anchor;
    std::unordered_map<std::string, int> key_lines;
  };

  // yaml-cpp takes the end of the file for a missing quote, and what follows it for one long text.
  void CheckQuotes(const YAML::Mark& mark) const {
    size_t at = static_cast<size_t>(std::max(mark.pos, 0));
    if (at >= text_.size() || (text_[at] != '"' && text_[at] != '\'')) return;
    const char quote = text_[at++];
    for (; at < text_.size(); ++at) {
      if (text_[at] == '\\' && quote == '"') {
        ++at;
      } else if (text_[at] == quote) {
        if (quote == '"' || at + 1 >= text_.size() || text_[at + 1] != quote) return;
        ++at;  // '' within '…' is a quote of the text.
      }
    }
    throw TreeError{mark.line, "a quote that is not closed"};
  }

  bool WantsKey() const {
    return !open_.empty() && open_.back().node.kind == YamlNode::Kind::kMap &&
           open_.back().node.keys.size() == open_.back().node.values.size();
  }

  bool TakeKey(const YAML::Mark& mark, const std::string& key) {
    if (!WantsKey()) return false;
    YamlNode& map = open_.back().node;
    if (key.empty()) throw TreeError{mark.line, "expected a name as the key, got nothing"};
    const auto [earlier, is_new] = open_.back().key_lines.try_emplace(key, mark.line);
    if (!is_new) {
      throw TreeError{mark.line,
                      absl::StrCat(key, ": given twice, first in line ", earlier->second + 1)};
    }
    map.keys.push_back(key);
    key_line_ = mark.line;
    return true;
  }

  void Open(const YAML::Mark& mark, YAML::anchor_t anchor, YamlNode::Kind kind) {
    if (WantsKey()) throw TreeError{mark.line, "expected a name as the key, got a list or map"};
    CheckDepth(mark, static_cast<int>(open_.size()) + 1);
    YamlNode node;
    node.kind = kind;
    node.origin = Origin(mark);
    CountOne(mark);
    open_.push_back({std::move(node), anchor, {}});
  }

  void Close() {
    OpenNode done = std::move(open_.back());
    open_.pop_back();
    if (done.anchor != YAML::NullAnchor) anchors_[done.anchor] = done.node;
    Attach(std::move(done.node));
  }

  void Add(const YAML::Mark& mark, YAML::anchor_t anchor, YamlNode node) {
    // The mark of an empty value is that of the next token; the key's line is where it is missing.
    node.origin = node.kind == YamlNode::Kind::kNull && !open_.empty()
                      ? absl::StrCat(name_, ":", key_line_ + 1)
                      : Origin(mark);
    CountOne(mark);
    if (anchor != YAML::NullAnchor) anchors_[anchor] = node;
    Attach(std::move(node));
  }

  void Attach(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
    } else {
      open_.back().node.values.push_back(std::move(node));
    }
  }

  void CountNodes(const YAML::Mark& mark, const YamlNode& node, int depth) {
    CheckDepth(mark, depth + 1);
    CountOne(mark);
    for (const YamlNode& value : node.values) CountNodes(mark, value, depth + 1);
  }

  void CountOne(const YAML::Mark& mark) {
    if (++nodes_ > kMaxYamlNodes) {
      throw TreeError{mark.line, absl::StrCat("more than ", kMaxYamlNodes,
                                              " values, those that aliases stand for included")};
    }
  }

  void CheckDepth(const YAML::Mark& mark, int depth) {
    if (depth > kMaxYamlDepth) {
      throw TreeError{mark.line, absl::StrCat("nested deeper than ", kMaxYamlDepth, " levels")};
    }
  }

  std::string Origin(const YAML::Mark& mark) const {
    return absl::StrCat(name_, ":", mark.line + 1);
  }

  const std::string_view text_;
  const std::string name_;
  std::optional<YamlNode> root_;
  std::vector<OpenNode> open_;
  std::map<YAML::anchor_t, YamlNode> anchors_;
  size_t nodes_ = 0;
  int key_line_ = 0;
};

absl::Status ErrorAt(std::string_view name, int line, std::string_view message) {
  return absl::InvalidArgumentError(
      absl::StrCat(absl::string_view(name.data(), name.size()), ":", line + 1, ": ",
                   absl::string_view(message.data(), message.size())));
}

// One step of an override's path: a name, or an index where `name` is empty.
struct PathStep {
  std::string name;
  size_t index = 0;
};

std::optional<std::vector<PathStep>> ParsePath(std::string_view path) {
  std::vector<PathStep> steps;
  size_t at = 0;
  while (at < path.size()) {
    if (path[at] == '[') {
      const size_t close = path.find(']', at);
      if (steps.empty() || close == std::string_view::npos) return std::nullopt;
      const std::string_view digits = path.substr(at + 1, close - at - 1);
      uint32_t index = 0;
      if (digits.empty() || digits.find_first_not_of("0123456789") != std::string_view::npos ||
          !absl::SimpleAtoi(absl::string_view(digits.data(), digits.size()), &index)) {
        return std::nullopt;
      }
      steps.push_back({"", index});
      at = close + 1;
      continue;
    }
    if (!steps.empty()) {
      if (path[at] != '.') return std::nullopt;
      ++at;
    }
    const size_t end = std::min(path.find_first_of(".[", at), path.size());
    if (end == at) return std::nullopt;
    steps.push_back({std::string(path.substr(at, end - at))});
    at = end;
  }
  if (steps.empty()) return std::nullopt;
  return steps;
}

// The node that `step` names below `parent`, made when it is missing.
absl::StatusOr<YamlNode*> Descend(const PathStep& step, const std::string& origin,
                                  YamlNode* parent) {
  const bool by_name = !step.name.empty();
  if (parent->style == YamlNode::Style::kRaw && parent->kind == YamlNode::Kind::kScalar) {
    const std::string text = parent->scalar;
    ROLLCALL_ASSIGN_OR_RETURN(*parent, ParseYamlTree(text, parent->origin));
  }
  if (parent->kind == YamlNode::Kind::kNull) {
    parent->kind = by_name ? YamlNode::Kind::kMap : YamlNode::Kind::kList;
    parent->origin = origin;
  }
  if (by_name) {
    if (parent->kind != YamlNode::Kind::kMap) {
      return absl::InvalidArgumentError(absl::StrCat(origin, ": ", step.name, " is looked for in ",
                                                     parent->Describe(), " (", parent->origin,
                                                     ")"));
    }
    if (YamlNode* found = parent->Find(step.name)) return found;
    parent->keys.push_back(step.name);
  } else {
    if (parent->kind != YamlNode::Kind::kList) {
      return absl::InvalidArgumentError(absl::StrCat(origin, ": [", step.index,
                                                     "] is looked for in ", parent->Describe(),
                                                     " (", parent->origin, ")"));
    }
    if (step.index < parent->values.size()) return &parent->values[step.index];
    if (step.index > parent->values.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          origin, ": index ", step.index, " is past the end of a list of ", parent->values.size()));
    }
  }
  parent->values.emplace_back();
  parent->values.back().origin = origin;
  return &parent->values.back();
}

}  // namespace

const YamlNode* YamlNode::Find(std::string_view key) const {
  const auto it = std::find(keys.begin(), keys.end(), key);
  return it == keys.end() || static_cast<size_t>(it - keys.begin()) >= values.size()
             ? nullptr
             : &values[it - keys.begin()];
}

YamlNode* YamlNode::Find(std::string_view key) {
  return const_cast<YamlNode*>(std::as_const(*this).Find(key));
}

std::string YamlNode::Describe() const {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a section";
    case Kind::kScalar:
      break;
  }
  const bool is_long = scalar.size() > 60;
  return absl::StrCat(style == Style::kQuoted ? "the string \"" : "\"",
                      is_long ? scalar.substr(0, 57) + "..." : scalar, "\"");
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const unsigned char lead = text[at];
    const int extra = lead < 0x80   ? 0
                      : lead < 0xc2 ? -1
                      : lead < 0xe0 ? 1
                      : lead < 0xf0 ? 2
                      : lead < 0xf5 ? 3
                                    : -1;
    if (extra < 0 || at + extra >= text.size()) return at;
    for (int i = 1; i <= extra; ++i) {
      if ((static_cast<unsigned char>(text[at + i]) & 0xc0) != 0x80) return at;
    }
    const unsigned char second = extra > 0 ? text[at + 1] : 0;
    const bool overlong_or_surrogate =
        (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
        (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f);
    if (overlong_or_surrogate) return at;
    at += extra + 1;
  }
  return std::string_view::npos;
}

absl::StatusOr<YamlNode> ParseYamlTree(std::string_view text, std::string_view name) {
  if (text.size() > kMaxYamlBytes) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name), ": ", text.size(),
                                                   " bytes, at most ", kMaxYamlBytes, " are read"));
  }
  const size_t nul = text.find('\0');
  const size_t bad = std::min(FindInvalidUtf8(text), nul);
  if (bad != std::string_view::npos) {
    const int line = static_cast<int>(std::count(text.begin(), text.begin() + bad, '\n'));
    return ErrorAt(name, line, bad == nul ? "a NUL byte" : "not UTF-8");
  }
  if (text.substr(0, 3) == "\xef\xbb\xbf") text.remove_prefix(3);  // A byte order mark.
  TreeBuilder builder(text, name);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    TreeBuilder second(text, name);
    if (parser.HandleNextDocument(second)) {
      return absl::InvalidArgumentError(
          absl::StrCat(std::string(name), ": more than one YAML document"));
    }
  } catch (const TreeError& error) {
    return ErrorAt(name, error.line, error.message);
  } catch (const YAML::Exception& error) {
    return ErrorAt(name, std::max(error.mark.line, 0), absl::StrCat("not YAML: ", error.msg));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(name), ": not YAML: ", error.what()));
  }
  YamlNode root = builder.Take();
  if (root.kind == YamlNode::Kind::kNull) {
    root.kind = YamlNode::Kind::kMap;
    root.origin = std::string(name);
  }
  return root;
}

absl::Status ApplyOverride(std::string_view override_text, YamlNode* root) {
  const std::string origin = absl::StrCat("--set ", std::string(override_text));
  const size_t equals = override_text.find('=');
  if (equals == std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": expected path=value, such as learner.optimizer.lr=1e-6"));
  }
  if (FindInvalidUtf8(override_text) != std::string_view::npos ||
      override_text.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError("--set: not UTF-8");
  }
  const auto steps = ParsePath(override_text.substr(0, equals));
  if (!steps) {
    return absl::InvalidArgumentError(absl::StrCat(
        origin, ": expected names joined by '.' with [index] for lists before the '='"));
  }
  if (steps->size() > kMaxYamlDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": nested deeper than ", kMaxYamlDepth, " levels"));
  }
  YamlNode* node = root;
  for (const PathStep& step : *steps) {
    ROLLCALL_ASSIGN_OR_RETURN(node, Descend(step, origin, node));
  }
  *node = YamlNode();
  node->kind = YamlNode::Kind::kScalar;
  node->style = YamlNode::Style::kRaw;
  node->scalar = std::string(override_text.substr(equals + 1));
  node->origin = origin;
  return absl::OkStatus();
}

}  // namespace rollcall::config
