// Threads that share the work of one step, and lose little when the machine gives them no core.
//
// A job is a number of units; whoever is there takes the next one. The caller never waits for a
// thread that has not begun, only for units that are being worked on, so a helper that sleeps or is
// not scheduled costs nothing. One that loses its core in the middle of a unit does cost: the caller
// notices, when it waits for longer than a unit takes it, and works alone for a while, for twice as long
// each time that sharing did not gain far more. A helper that has come for a job of a step spins until the
// step's end, else briefly, and then sleeps.

#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace outrider {

inline void breathe() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Team {
  public:
    explicit Team(int num_threads) {
        for (int worker = 1; worker < num_threads; worker++) {
            helpers_.emplace_back([this, worker] { help(worker); });
        }
    }

    ~Team() {
        is_ended_.store(true);
        wake();
        for (std::thread& helper : helpers_) helper.join();
    }

    int size() const { return 1 + static_cast<int>(helpers_.size()); }

    // While one lives, helpers that have been woken await the next job: to wake one again takes longer than what
    // lies between two jobs, and far longer where other work has its core.
    class Stretch {
      public:
        explicit Stretch(Team& team) : team_(team) { team_.is_in_stretch_.store(true, std::memory_order_relaxed); }
        ~Stretch() { team_.is_in_stretch_.store(false, std::memory_order_relaxed); }
        Stretch(const Stretch&) = delete;
        Stretch& operator=(const Stretch&) = delete;

      private:
        Team& team_;
    };

    // Calls work(unit, worker) once for every unit, and returns when all calls have returned. `cost` counts
    // multiply-adds or the like: what is done in some 70 us is not worth waking anyone, and what is done in some
    // 10 us is not worth sharing with those who are awake.
    template <class Work>
    void run(int64_t num_units, int64_t cost, const Work& work) {
        const bool is_anyone_asleep = num_asleep_.load(std::memory_order_relaxed) > 0;
        const bool is_worth_it = cost >= (is_anyone_asleep ? kWorthWaking : kWorthSharing);
        if (helpers_.empty() || num_units < 2 || !is_worth_it || is_alone()) {
            for (int64_t unit = 0; unit < num_units; unit++) work(unit, 0);
            return;
        }
        post(num_units, [](const void* context, int64_t unit, int worker) {
            (*static_cast<const Work*>(context))(unit, worker);
        }, &work);
    }

  private:
    using Function = void (*)(const void*, int64_t, int);
    static constexpr int kSpins = 4000;             // some 40 us
    static constexpr int kSpinsInStretch = 100000;  // some 1 ms: the caller has lost its core
    static constexpr int64_t kWorthWaking = 1 << 24;
    static constexpr int64_t kWorthSharing = 1 << 21;
    using Clock = std::chrono::steady_clock;
    using Time = Clock::time_point;
    static constexpr Clock::duration kStall = std::chrono::microseconds(100);
    static constexpr Clock::duration kShortestAlone = std::chrono::milliseconds(10);
    static constexpr Clock::duration kLongestAlone = std::chrono::milliseconds(2000);
    static constexpr uint64_t kIndexBits = 24;
    static constexpr uint64_t kIndexMask = (uint64_t{1} << kIndexBits) - 1;

    void post(int64_t num_units, Function function, const void* context) {
        // A new job number, and nothing to take yet: claims on the job before fail from here on.
        const uint64_t job = ((ticket_.load(std::memory_order_relaxed) >> kIndexBits) + 1) << kIndexBits;
        ticket_.store(job | kIndexMask);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        function_.store(function, std::memory_order_relaxed);
        context_.store(context, std::memory_order_relaxed);
        num_units_.store(num_units, std::memory_order_relaxed);
        num_done_.store(0, std::memory_order_relaxed);
        ticket_.store(job);
        if (num_asleep_.load() > 0) wake();
        const Time began = Clock::now();
        int64_t num_own = 0;
        while (take(0)) num_own++;
        const Clock::duration own = Clock::now() - began;
        shared_ += own;
        for (int spins = 0; spins < kSpins; spins++) {
            if (num_done_.load(std::memory_order_acquire) == num_units) return;
            breathe();
        }
        wait_for(num_units, own / (num_own > 0 ? num_own : 1));
    }

    // Somebody holds a unit, of which one takes the caller `unit`. Without progress after twice that it has
    // lost its core, maybe to this very thread. Sharing has gained at most what it has lasted since that happened
    // last: where that is not far more than what is lost now, the caller goes without it for longer each time.
    void wait_for(int64_t num_units, Clock::duration unit) {
        const Time began = Clock::now();
        while (num_done_.load(std::memory_order_acquire) < num_units) std::this_thread::yield();
        const Time now = Clock::now();
        const Clock::duration lost = now - began;
        if (lost < kStall + 2 * unit) return;
        alone_for_ = shared_ < 4 * lost ? std::min(2 * alone_for_, kLongestAlone) : kShortestAlone;
        alone_until_ = now + alone_for_;
        shared_ = {};
        has_stalled_ = true;
    }

    bool is_alone() {
        if (has_stalled_ && Clock::now() >= alone_until_) has_stalled_ = false;
        return has_stalled_;
    }

    // Does one unit of the current job; false when none is left to take.
    bool take(int worker) {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        while (true) {
            const Function function = function_.load(std::memory_order_relaxed);
            const void* context = context_.load(std::memory_order_relaxed);
            const uint64_t unit = ticket & kIndexMask;
            if (unit >= static_cast<uint64_t>(num_units_.load(std::memory_order_relaxed))) return false;
            // Succeeds only while the job is the one that was read above, and then keeps it alive.
            if (ticket_.compare_exchange_weak(ticket, ticket + 1)) {
                function(context, static_cast<int64_t>(unit), worker);
                num_done_.fetch_add(1, std::memory_order_release);
                return true;
            }
        }
    }

    void help(int worker) {
        int spins = 0;
        while (!is_ended_.load(std::memory_order_relaxed)) {
            if (take(worker)) {
                spins = 0;
            } else if (++spins < (is_in_stretch_.load(std::memory_order_relaxed) ? kSpinsInStretch : kSpins)) {
                breathe();
            } else {
                sleep();
                spins = 0;
            }
        }
    }

    // Counts as asleep until it is back: one that is woken after the work is done waits again, and must be woken again.
    void sleep() {
        std::unique_lock<std::mutex> lock(mutex_);
        num_asleep_.fetch_add(1);
        awake_.wait(lock, [this] { return is_ended_.load() || has_work(); });
        num_asleep_.fetch_sub(1);
    }

    bool has_work() const { return (ticket_.load() & kIndexMask) < static_cast<uint64_t>(num_units_.load()); }

    void wake() {
        { std::lock_guard<std::mutex> lock(mutex_); }
        awake_.notify_all();
    }

    std::atomic<uint64_t> ticket_{0};  // job number, then the next unit
    std::atomic<Function> function_{nullptr};
    std::atomic<const void*> context_{nullptr};
    std::atomic<int64_t> num_units_{0};
    alignas(64) std::atomic<int64_t> num_done_{0};
    alignas(64) std::atomic<int> num_asleep_{0};
    std::atomic<bool> is_in_stretch_{false};
    std::atomic<bool> is_ended_{false};
    bool has_stalled_ = false;  // the caller's own
    Time alone_until_{};
    Clock::duration alone_for_ = kShortestAlone;
    Clock::duration shared_{};  // what shared jobs have lasted since a core was lost
    std::mutex mutex_;
    std::condition_variable awake_;
    std::vector<std::thread> helpers_;
};

}  // namespace outrider
