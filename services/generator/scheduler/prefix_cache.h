#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "services/generator/scheduler/block_pool.h"

namespace rollcall::generator {

// Which full blocks of keys and values are known by the tokens they stand for: a radix tree with
// one block a node, so that a path from the root is a text and a common beginning is held once.
// Tokens are compared, not only their hashes.
//
// Keys and values depend on the weights: Clear when those change. A node is dropped only when it is
// a leaf and nobody but this cache holds its block, least recently used first. Whoever holds a
// node's block must hold those of its ancestors too; then every idle block of the pool can be got
// by Evict.
//
// Not thread-safe.
class PrefixCache {
 public:
  // Names a node; never used twice.
  using NodeId = uint64_t;
  static constexpr NodeId kRoot = 0;

  // `pool` must outlive the cache.
  PrefixCache(BlockPool* pool, uint32_t block_tokens) : pool_(pool), block_tokens_(block_tokens) {}

  struct Match {
    std::vector<uint32_t> blocks;  // not retained
    NodeId last = kRoot;
  };
  // The longest known beginning of `tokens`, in whole blocks, which counts as used.
  Match Find(std::span<const uint32_t> tokens);

  // The node of a block's tokens after `parent`. Made of `block`, which has holders, where there is
  // none yet.
  NodeId Insert(NodeId parent, std::span<const uint32_t> tokens, uint32_t block);
  uint32_t block(NodeId node) const { return nodes_.at(node).block; }

  // The path to `node` was used.
  void Touch(NodeId node);

  // Frees the block of the least recently used idle leaf; false: no block is idle.
  bool Evict();
  void Clear();

  size_t size() const { return nodes_.size(); }

 private:
  struct Key {
    NodeId parent;
    std::vector<uint32_t> tokens;
    bool operator==(const Key& other) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  struct Node {
    NodeId parent = kRoot;
    uint32_t block = 0;
    uint32_t children = 0;
    uint64_t used = 0;
    const Key* key = nullptr;  // in index_
  };

  Key KeyOf(NodeId parent, std::span<const uint32_t> tokens) const {
    return {parent, {tokens.begin(), tokens.end()}};
  }

  BlockPool* const pool_;
  const uint32_t block_tokens_;
  std::unordered_map<NodeId, Node> nodes_;
  std::unordered_map<Key, NodeId, KeyHash> index_;
  std::set<std::pair<uint64_t, NodeId>> leaves_;  // by last use
  NodeId next_node_ = 1;
  uint64_t uses_ = 0;
};

}  // namespace rollcall::generator
