#include "services/generator/scheduler/prefix_cache.h"

namespace rollcall::generator {

size_t PrefixCache::KeyHash::operator()(const Key& key) const {
  // Multiply and fold, as in FNV-1a with 64-bit words; only speed depends on its quality.
  uint64_t hash = 0xcbf29ce484222325u ^ key.parent;
  for (const uint32_t token : key.tokens) {
    hash = (hash ^ token) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  return hash;
}

PrefixCache::Match PrefixCache::Find(std::span<const uint32_t> tokens) {
  Match match;
  for (size_t begin = 0; begin + block_tokens_ <= tokens.size(); begin += block_tokens_) {
    const auto it = index_.find(KeyOf(match.last, tokens.subspan(begin, block_tokens_)));
    if (it == index_.end()) break;
    match.last = it->second;
    match.blocks.push_back(nodes_.at(it->second).block);
  }
  Touch(match.last);
  return match;
}

PrefixCache::NodeId PrefixCache::Insert(NodeId parent, std::span<const uint32_t> tokens,
                                        uint32_t block) {
  const auto [it, is_new] = index_.try_emplace(KeyOf(parent, tokens), next_node_);
  if (!is_new) return it->second;
  const NodeId id = next_node_++;
  nodes_[id] = {.parent = parent, .block = block, .children = 0, .used = uses_, .key = &it->first};
  leaves_.insert({uses_, id});
  pool_->Cache(block);
  if (parent != kRoot) {
    Node& above = nodes_.at(parent);
    if (above.children++ == 0) leaves_.erase({above.used, parent});
  }
  Touch(id);
  return id;
}

void PrefixCache::Touch(NodeId node) {
  ++uses_;
  while (node != kRoot) {
    Node& touched = nodes_.at(node);
    if (touched.children == 0) {
      leaves_.erase({touched.used, node});
      leaves_.insert({uses_, node});
    }
    touched.used = uses_;
    node = touched.parent;
  }
}

bool PrefixCache::Evict() {
  if (pool_->num_idle() == 0) return false;
  for (auto leaf = leaves_.begin(); leaf != leaves_.end(); ++leaf) {
    const NodeId id = leaf->second;
    const Node node = nodes_.at(id);
    if (pool_->holders(node.block) > 0) continue;
    leaves_.erase(leaf);
    pool_->Uncache(node.block);
    // A copy: erasing by a key inside the element would read it after its end.
    const Key key = *node.key;
    index_.erase(key);
    nodes_.erase(id);
    if (node.parent != kRoot) {
      Node& above = nodes_.at(node.parent);
      if (--above.children == 0) leaves_.insert({above.used, node.parent});
    }
    return true;
  }
  return false;
}

void PrefixCache::Clear() {
  for (const auto& [id, node] : nodes_) pool_->Uncache(node.block);
  nodes_.clear();
  index_.clear();
  leaves_.clear();
}

}  // namespace rollcall::generator
