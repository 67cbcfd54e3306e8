#include "common/base/bounded_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace rollcall {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);

TEST(BoundedQueueTest, KeepsOrderAndMovesItems) {
  BoundedQueue<std::unique_ptr<int>> queue(2);
  EXPECT_TRUE(queue.Push(std::make_unique<int>(1)));
  EXPECT_TRUE(queue.Push(std::make_unique<int>(2)));
  EXPECT_EQ(queue.size(), 2u);
  EXPECT_EQ(**queue.Pop(), 1);
  EXPECT_EQ(**queue.Pop(), 2);
}

TEST(BoundedQueueTest, TryPushKeepsTheItemWhenRefused) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  auto first = std::make_unique<int>(1);
  auto second = std::make_unique<int>(2);
  EXPECT_TRUE(queue.TryPush(first));
  EXPECT_EQ(first, nullptr);
  EXPECT_FALSE(queue.TryPush(second));
  ASSERT_NE(second, nullptr);
  queue.Pop();
  queue.Close();
  EXPECT_FALSE(queue.TryPush(second));
  EXPECT_EQ(*second, 2);
}

TEST(BoundedQueueTest, CloseDeliversWhatWasPushed) {
  BoundedQueue<int> queue(4);
  queue.Push(7);
  queue.Close();
  EXPECT_FALSE(queue.Push(8));
  EXPECT_TRUE(queue.closed());
  EXPECT_FALSE(queue.drained());
  EXPECT_EQ(queue.Pop(), 7);
  EXPECT_TRUE(queue.drained());
  EXPECT_EQ(queue.Pop(), std::nullopt);
}

TEST(BoundedQueueTest, CloseWakesBlockedProducerAndConsumer) {
  BoundedQueue<int> full(1);
  full.Push(1);
  BoundedQueue<int> empty(1);
  std::thread producer([&] { EXPECT_FALSE(full.Push(2)); });
  std::thread consumer([&] { EXPECT_EQ(empty.Pop(), std::nullopt); });
  full.Close();
  empty.Close();
  producer.join();
  consumer.join();
  EXPECT_EQ(full.Pop(), 1);
}

TEST(BoundedQueueTest, PushBlocksUntilThereIsRoom) {
  BoundedQueue<int> queue(1);
  queue.Push(1);
  std::atomic<bool> pushed = false;
  std::thread producer([&] {
    queue.Push(2);
    pushed = true;
  });
  EXPECT_FALSE(pushed);
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.PopFor(kPatience), 2);
  producer.join();
}

TEST(BoundedQueueTest, PopForGivesUpOnTheClock) {
  SimulatedClock clock;
  BoundedQueue<int> queue(1, &clock);
  EXPECT_EQ(queue.PopFor(absl::ZeroDuration()), std::nullopt);
  std::thread consumer([&] { EXPECT_EQ(queue.PopFor(absl::Seconds(10)), std::nullopt); });
  ASSERT_TRUE(clock.AwaitWaiters(1, kPatience));
  clock.Advance(absl::Seconds(10));
  consumer.join();
  EXPECT_FALSE(queue.drained());
}

TEST(BoundedQueueTest, ZeroCapacityHoldsOne) {
  BoundedQueue<int> queue(0);
  EXPECT_EQ(queue.capacity(), 1u);
  EXPECT_TRUE(queue.Push(1));
}

// Several producers and consumers on a small queue: every item arrives exactly once, each
// producer's in its order.
TEST(BoundedQueueTest, DeliversEachItemOnceUnderStress) {
  constexpr int kProducers = 4;
  constexpr int kConsumers = 3;
  constexpr int kItems = 5000;
  struct Item {
    int producer;
    int number;
  };
  BoundedQueue<Item> queue(8);
  std::vector<std::thread> producers;
  for (int producer = 0; producer < kProducers; ++producer) {
    producers.emplace_back([&queue, producer] {
      for (int number = 0; number < kItems; ++number) {
        Item item{producer, number};
        if (number % 2 == 0 && queue.TryPush(item)) continue;
        ASSERT_TRUE(queue.Push(item));
      }
    });
  }
  std::vector<std::vector<Item>> received(kConsumers);
  std::atomic<size_t> largest = 0;
  std::vector<std::thread> consumers;
  for (int consumer = 0; consumer < kConsumers; ++consumer) {
    consumers.emplace_back([&, consumer] {
      while (true) {
        const size_t size = queue.size();
        if (size > largest) largest = size;
        std::optional<Item> item =
            consumer == 0 ? queue.PopFor(absl::Microseconds(50)) : queue.Pop();
        if (item.has_value()) {
          received[consumer].push_back(*item);
        } else if (queue.drained()) {
          return;
        }
      }
    });
  }
  for (std::thread& thread : producers) thread.join();
  queue.Close();
  for (std::thread& thread : consumers) thread.join();

  std::vector<std::vector<int>> seen(kProducers, std::vector<int>(kItems, 0));
  for (const auto& items : received) {
    std::vector<int> last(kProducers, -1);
    for (const Item& item : items) {
      EXPECT_GT(item.number, last[item.producer]);
      last[item.producer] = item.number;
      ++seen[item.producer][item.number];
    }
  }
  for (const auto& counts : seen) {
    for (const int count : counts) ASSERT_EQ(count, 1);
  }
  EXPECT_LE(largest, queue.capacity());
}

}  // namespace
}  // namespace rollcall
