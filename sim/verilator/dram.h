// The off-chip memory behind the AXI4 ports of a design: exact in cycles, byte for byte in content.
//
// All ports share one token bucket of bytes. At the end of each cycle t, in this order:
//   1. credit = min(burst * den, credit + num); a byte costs den.
//   2. The requesters R0, W0, R1, W1, ... are scanned from `turn`; the first that has a request accepted before t
//      and not granted yet is granted if the credit covers it, else nobody is (no bypass). At most one grant.
//      If nobody has one, the next scan starts at R0 again.
//   3. The AR and AW handshakes of cycle t are queued.
// A read granted in cycle g drives its first beat in cycle max(g + read latency, last beat before + 1), then one
// beat per cycle. A write granted in g takes beats from cycle max(g + 1, last beat before + 1); its answer
// comes `write latency` cycles after its last beat, in order. What the memory drives in a cycle depends on its
// state alone, never on what the design drives in that cycle.
//
// Random stalls delay arready, awready, wready, rvalid and bvalid. They are a function of seed, cycle and channel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "harness.h"

namespace codesign {

// Read by ctypes: order and types are those of _DramConfig in simulator.py.
struct DramConfig {
    uint64_t bytes;
    uint64_t num, den;
    uint32_t ports, port_bytes, burst_bytes;
    uint32_t read_latency, write_latency, outstanding;
};

enum Channel : uint32_t { AR, R, AW, W, B, READ_GRANT, WRITE_GRANT };

// One thing that happened at the memory, for comparing and for looking. Read by numpy.
struct Event {
    uint64_t cycle, address;
    uint32_t port, channel;
};

// What passed through one port. Read by ctypes.
struct Traffic {
    uint64_t read_bytes, write_bytes, reads, writes;
};

inline uint64_t load(const Port& port) {
    uint64_t value = 0;
    std::memcpy(&value, port.data, std::min<uint32_t>(port.bytes, 8));
    return value;
}

inline uint64_t mix(uint64_t x) {  // the finalizer of SplitMix64 (Steele, Lea, Flood: OOPSLA 2014)
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

class Dram {
public:
    Dram(const Model& model, const DramConfig& config_, uint8_t* memory_) : config(config_), memory(memory_) {
        for (uint32_t p = 0; p < config.ports; ++p) ports.emplace_back(model, p, config);
        traffic.resize(config.ports);
        reset();
    }

    // Forgets all requests; the content stays.
    void reset() {
        credit = full();
        turn = 0;
        waiting = 0;
        for (Pins& pins : ports) pins.clear();
    }

    // Drives what the design sees in cycle t; the only function that writes pins after the start.
    void drive(uint64_t t) {
        for (uint32_t p = 0; p < ports.size(); ++p) drive_port(ports[p], p, t);
    }

    // Takes what the design drives in cycle t, after everything has settled, just before the clock edge. Leaves all
    // pins as they are, since the edge is still to see them.
    void sample(uint64_t t) {
        credit = std::min(full(), credit + config.num);
        if (waiting != 0) grant(t);
        else turn = 0;
        for (uint32_t p = 0; p < ports.size(); ++p) sample_port(ports[p], p, t);
    }

    // Stalls a channel in a cycle with probability threshold / 2**32.
    void stall(uint64_t seed, uint64_t threshold_) {
        stall_seed = mix(seed);
        threshold = threshold_;
    }

    std::string violation;  // the first breach of the protocol; empty if none
    uint64_t starved = 0;   // cycles in which a request waited for bandwidth
    std::vector<Traffic> traffic;
    std::vector<Event> events;
    uint64_t event_limit = 0;

private:
    struct Request {
        uint64_t address, ready;  // ready: first cycle of data, once granted
        uint32_t beats, beat;
    };

    // Requests of one direction in order; the first `granted` of them may move data.
    struct Queue {
        std::vector<Request> ring;
        uint32_t head = 0, count = 0, granted = 0;

        Request& at(uint32_t i) { return ring[(head + i) % ring.size()]; }
        void push(const Request& request) { at(count++) = request; }
        void pop() {
            head = (head + 1) % ring.size();
            --count;
            --granted;
        }
    };

    // Answers to writes that are complete: the cycle in which each may be given.
    struct Answers {
        std::vector<uint64_t> due;
        uint32_t head = 0, count = 0;

        uint64_t first() const { return due[head]; }
        void push(uint64_t cycle) { due[(head + count++) % due.size()] = cycle; }
        void pop() {
            head = (head + 1) % due.size();
            --count;
        }
    };

    // Address channel as the design drives it, and what must stay stable.
    struct Address {
        const uint8_t* valid;
        uint8_t* ready;
        Port address, length;
        const Port *size, *burst;  // null where the design has no such port
        bool held = false;
        uint64_t held_address = 0, held_length = 0;
    };

    struct Pins {
        Pins(const Model& model, uint32_t p, const DramConfig& config)
            : ar(address(model, p, "ar")), aw(address(model, p, "aw")),
              rdata(pin(model, p, "rdata", config.port_bytes)), wdata(pin(model, p, "wdata", config.port_bytes)),
              wstrb(pin(model, p, "wstrb", std::max(1u, config.port_bytes / 8))),
              rvalid(bit(model, p, "rvalid")), rready(bit(model, p, "rready")), rlast(bit(model, p, "rlast")),
              rresp(bit(model, p, "rresp")), wvalid(bit(model, p, "wvalid")), wready(bit(model, p, "wready")),
              wlast(bit(model, p, "wlast")), bvalid(bit(model, p, "bvalid")), bready(bit(model, p, "bready")),
              bresp(bit(model, p, "bresp")), held_data(config.port_bytes) {
            reads.ring.resize(config.outstanding);
            writes.ring.resize(config.outstanding);
            answers.due.resize(config.outstanding);
            *rresp = *bresp = 0;
        }

        void clear() {
            reads.head = reads.count = reads.granted = 0;
            writes.head = writes.count = writes.granted = 0;
            answers.head = answers.count = 0;
            r_shown = b_shown = false;
            ar.held = aw.held = w_held = false;
        }

        static Port pin(const Model& model, uint32_t p, const std::string& name, uint32_t bytes) {
            const std::string full = "m_axi" + std::to_string(p) + "_" + name;
            const Port* port = model.find(full);
            if (port == nullptr) throw std::invalid_argument("the design has no port " + full);
            if (bytes != 0 && port->bytes != bytes) {
                throw std::invalid_argument("port " + full + " has " + std::to_string(port->bytes) + " bytes of storage, "
                                            + std::to_string(bytes) + " expected");
            }
            return *port;
        }
        static uint8_t* bit(const Model& model, uint32_t p, const std::string& name) {
            return static_cast<uint8_t*>(pin(model, p, name, 1).data);
        }
        static Address address(const Model& model, uint32_t p, const std::string& kind) {
            const std::string prefix = "m_axi" + std::to_string(p) + "_" + kind;
            Address a{};
            a.valid = bit(model, p, kind + "valid");
            a.ready = bit(model, p, kind + "ready");
            a.address = pin(model, p, kind + "addr", 0);
            a.length = pin(model, p, kind + "len", 1);
            a.size = model.find(prefix + "size");
            a.burst = model.find(prefix + "burst");
            return a;
        }

        Address ar, aw;
        Port rdata, wdata, wstrb;
        uint8_t *rvalid, *rready, *rlast, *rresp;
        uint8_t *wvalid, *wready, *wlast;
        uint8_t *bvalid, *bready, *bresp;
        Queue reads, writes;
        Answers answers;
        bool r_shown = false, b_shown = false;  // valid now; the pins follow in drive()
        bool w_held = false;
        std::vector<uint8_t> held_data;
        uint64_t held_strb = 0;
        uint8_t held_last = 0;
    };

    uint64_t full() const { return config.burst_bytes * config.den; }

    bool free(uint32_t p, Channel channel, uint64_t t) const {
        return threshold == 0 || (mix(stall_seed + t * 1024 + p * 8 + channel) >> 32) >= threshold;
    }

    void drive_port(Pins& pins, uint32_t p, uint64_t t) {
        *pins.ar.ready = pins.reads.count < config.outstanding && free(p, AR, t);
        *pins.aw.ready = pins.writes.count + pins.answers.count < config.outstanding && free(p, AW, t);
        if (!pins.r_shown && pins.reads.granted != 0 && pins.reads.at(0).ready <= t && free(p, R, t)) {
            present(pins, pins.reads.at(0));
        }
        *pins.rvalid = pins.r_shown;
        *pins.wready = pins.writes.granted != 0 && pins.writes.at(0).ready <= t && free(p, W, t);
        if (pins.answers.count != 0 && pins.answers.first() <= t && free(p, B, t)) pins.b_shown = true;
        *pins.bvalid = pins.b_shown;
    }

    void present(Pins& pins, const Request& read) {
        std::memcpy(pins.rdata.data, memory + read.address + uint64_t(read.beat) * config.port_bytes, config.port_bytes);
        *pins.rlast = read.beat + 1 == read.beats;
        pins.r_shown = true;
    }

    void grant(uint64_t t) {
        const uint32_t requesters = 2 * static_cast<uint32_t>(ports.size());
        for (uint32_t i = 0; i < requesters; ++i) {
            const uint32_t who = (turn + i) % requesters;
            Pins& pins = ports[who / 2];
            Queue& queue = who % 2 ? pins.writes : pins.reads;
            if (queue.granted == queue.count) continue;
            Request& request = queue.at(queue.granted);
            const uint64_t cost = uint64_t(request.beats) * config.port_bytes * config.den;
            if (credit < cost) {
                ++starved;
                return;
            }
            credit -= cost;
            turn = (who + 1) % requesters;
            request.ready = t + (who % 2 ? 1 : config.read_latency);
            ++queue.granted;
            --waiting;
            record(t, who / 2, who % 2 ? WRITE_GRANT : READ_GRANT, request.address);
            return;
        }
    }

    void sample_port(Pins& pins, uint32_t p, uint64_t t) {
        if (*pins.rvalid && *pins.rready) take_read(pins, p, t);
        if (*pins.bvalid && *pins.bready) {
            pins.b_shown = false;
            pins.answers.pop();
            record(t, p, B, 0);
        }
        if (*pins.wvalid || pins.w_held) take_write(pins, p, t);
        if (*pins.ar.valid || pins.ar.held) take_address(pins.ar, pins.reads, p, AR, t);
        if (*pins.aw.valid || pins.aw.held) take_address(pins.aw, pins.writes, p, AW, t);
    }

    void take_read(Pins& pins, uint32_t p, uint64_t t) {
        Request& read = pins.reads.at(0);
        record(t, p, R, read.address + uint64_t(read.beat) * config.port_bytes);
        traffic[p].read_bytes += config.port_bytes;
        pins.r_shown = false;
        if (++read.beat == read.beats) pins.reads.pop();
    }

    void take_write(Pins& pins, uint32_t p, uint64_t t) {
        const uint64_t strobe = load(pins.wstrb);
        if (pins.w_held) {
            if (!*pins.wvalid) return fail(t, p, "wvalid fell before wready");
            if (std::memcmp(pins.held_data.data(), pins.wdata.data, config.port_bytes) != 0
                || pins.held_strb != strobe || pins.held_last != *pins.wlast) {
                return fail(t, p, "wdata, wstrb or wlast changed before wready");
            }
        }
        pins.w_held = !*pins.wready;
        if (pins.w_held) {
            std::memcpy(pins.held_data.data(), pins.wdata.data, config.port_bytes);
            pins.held_strb = strobe;
            pins.held_last = *pins.wlast;
            return;
        }
        store(pins, p, t, strobe);
    }

    void store(Pins& pins, uint32_t p, uint64_t t, uint64_t strobe) {
        Request& write = pins.writes.at(0);
        const bool last = write.beat + 1 == write.beats;
        if (last != (*pins.wlast != 0)) {
            return fail(t, p, "wlast is " + std::to_string(*pins.wlast) + " in beat " + std::to_string(write.beat) + " of "
                                  + std::to_string(write.beats));
        }
        uint8_t* target = memory + write.address + uint64_t(write.beat) * config.port_bytes;
        const uint8_t* source = static_cast<const uint8_t*>(pins.wdata.data);
        if (strobe == full_strobe) {
            std::memcpy(target, source, config.port_bytes);
        } else {
            for (uint32_t i = 0; i < config.port_bytes; ++i) {
                if (strobe >> i & 1) target[i] = source[i];
            }
        }
        record(t, p, W, write.address + uint64_t(write.beat) * config.port_bytes);
        traffic[p].write_bytes += config.port_bytes;
        ++write.beat;
        if (last) {
            pins.writes.pop();
            pins.answers.push(t + config.write_latency);
        }
    }

    void take_address(Address& pin, Queue& queue, uint32_t p, Channel channel, uint64_t t) {
        const uint64_t address = load(pin.address), length = load(pin.length);
        const std::string kind = channel == AR ? "ar" : "aw";
        if (pin.held) {
            if (!*pin.valid) return fail(t, p, kind + "valid fell before " + kind + "ready");
            if (pin.held_address != address || pin.held_length != length) {
                return fail(t, p, kind + "addr or " + kind + "len changed before " + kind + "ready");
            }
        }
        pin.held = !*pin.ready;
        pin.held_address = address;
        pin.held_length = length;
        if (const char* reason = illegal(pin, address, length)) {
            const uint64_t bytes = (length + 1) * config.port_bytes;
            return fail(t, p, kind + " of " + std::to_string(bytes) + " bytes at address " + std::to_string(address) + reason);
        }
        if (pin.held) return;
        queue.push({address, 0, static_cast<uint32_t>(length) + 1, 0});
        ++waiting;
        ++(channel == AR ? traffic[p].reads : traffic[p].writes);
        record(t, p, channel, address);
    }

    // Why the memory does not accept this burst; null if it does.
    const char* illegal(const Address& pin, uint64_t address, uint64_t length) const {
        const uint64_t bytes = (length + 1) * config.port_bytes;
        if (address % config.port_bytes != 0) return ": not aligned to the width of the port";
        if (bytes > config.burst_bytes) return ": longer than the largest burst";
        if (address / 4096 != (address + bytes - 1) / 4096) return ": crosses a 4096-byte boundary";
        if (address >= config.bytes || bytes > config.bytes - address) return ": outside the memory";
        if (pin.size != nullptr && (uint64_t(1) << load(*pin.size)) != config.port_bytes) return ": its size is not the port's";
        if (pin.burst != nullptr && load(*pin.burst) != 1) return ": not an incrementing burst";
        return nullptr;
    }

    void fail(uint64_t t, uint32_t p, const std::string& what) {
        if (violation.empty()) violation = "cycle " + std::to_string(t) + ", port m_axi" + std::to_string(p) + ": " + what;
    }

    void record(uint64_t t, uint32_t p, Channel channel, uint64_t address) {
        if (events.size() < event_limit) events.push_back({t, address, p, channel});
    }

    const DramConfig config;
    uint8_t* const memory;
    const uint64_t full_strobe = ~uint64_t(0) >> (64 - config.port_bytes);
    std::vector<Pins> ports;
    uint64_t credit = 0;
    uint32_t turn = 0, waiting = 0;
    uint64_t stall_seed = 0, threshold = 0;
};

}  // namespace codesign
