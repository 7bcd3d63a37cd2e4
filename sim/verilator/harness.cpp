// Drives one Verilated design: clock, ports, off-chip memory, AXI4-Lite host, waves. Called through ctypes.
//
// Cycle c lasts from one rising edge of clk to the next. Inputs set during c are seen by the edge that ends it;
// outputs read during c are those after the inputs of c have settled. Every function that runs cycles stops at the
// first failure, which error() then names; all further cycles are refused.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "dram.h"
#include "harness.h"

// What Verilated code calls on a fatal error; the default would end the process.
void vl_fatal(const char* file, int line, const char*, const char* message) {
    throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + message);
}

namespace codesign {

class Harness {
public:
    Harness(const DramConfig* config, uint8_t* memory) : model(make_model()) {
        clk = bit("clk");
        rst = bit("rst");
        if (config != nullptr) dram = std::make_unique<Dram>(*model, *config, memory);
        if (dram) dram->drive(0);
    }

    uint8_t* bit(const std::string& name) const {
        const Port* port = model->find(name);
        return port == nullptr ? nullptr : static_cast<uint8_t*>(port->data);
    }

    void settle() {
        if (!dirty) return;
        model->eval();
        dirty = false;
    }

    bool failed() const { return !error.empty(); }

    // Ends the current cycle. False if the design broke a rule, which `error` then names.
    bool tick() {
        settle();
        if (tracing) model->dump(10 * cycle + 5);
        if (dram && !sample()) return false;
        ++cycle;
        *clk = 1;
        model->eval();
        if (tracing) model->dump(10 * cycle);
        *clk = 0;
        if (dram) dram->drive(cycle);
        dirty = true;
        return true;
    }

    std::unique_ptr<Model> model;
    std::unique_ptr<Dram> dram;
    std::string error;
    uint64_t cycle = 0;
    bool dirty = true, tracing = false;
    uint8_t *clk = nullptr, *rst = nullptr;

private:
    bool sample() {
        if (rst != nullptr && *rst) {
            dram->reset();
            return true;
        }
        dram->sample(cycle);
        error = dram->violation;
        return error.empty();
    }
};

// Runs a body that may run cycles; a failure ends in `error` and gives -1.
template <typename Body>
int64_t guarded(Harness* harness, Body body) {
    if (harness->failed()) return -1;
    try {
        return body();
    } catch (const std::exception& failure) {
        harness->error = failure.what();
        return -1;
    }
}

// The host's side of the AXI4-Lite port.
class Host {
public:
    explicit Host(Harness& harness) : h(harness) {}

    // Cycles until the answer, which goes to `response`; -1 after `limit` cycles or a failure.
    int64_t write(uint32_t address, uint32_t data, uint32_t strobe, uint64_t limit, uint32_t* response) {
        put("awaddr", address);
        put("wdata", data);
        put("wstrb", strobe);
        uint8_t &awvalid = pin("awvalid"), &wvalid = pin("wvalid"), &bready = pin("bready");
        const uint8_t &awready = pin("awready"), &wready = pin("wready"), &bvalid = pin("bvalid");
        awvalid = wvalid = bready = 1;
        return run(limit, [&] {
            const bool aw = awvalid && awready, w = wvalid && wready, b = bvalid;
            if (b) *response = pin("bresp");
            if (!h.tick()) return -1;
            if (aw) awvalid = 0;
            if (w) wvalid = 0;
            if (b) bready = 0;
            return b ? 1 : 0;
        });
    }

    int64_t read(uint32_t address, uint64_t limit, uint32_t* data, uint32_t* response) {
        put("araddr", address);
        uint8_t &arvalid = pin("arvalid"), &rready = pin("rready");
        const uint8_t &arready = pin("arready"), &rvalid = pin("rvalid");
        arvalid = rready = 1;
        return run(limit, [&] {
            const bool ar = arvalid && arready, r = rvalid;
            if (r) {
                *data = static_cast<uint32_t>(load(port("rdata")));
                *response = pin("rresp");
            }
            if (!h.tick()) return -1;
            if (ar) arvalid = 0;
            if (r) rready = 0;
            return r ? 1 : 0;
        });
    }

private:
    template <typename Step>
    int64_t run(uint64_t limit, Step step) {
        for (uint64_t i = 1; i <= limit; ++i) {
            h.dirty = true;
            h.settle();
            const int state = step();
            h.dirty = true;
            if (state != 0) return state < 0 ? -1 : static_cast<int64_t>(i);
        }
        h.error = "cycle " + std::to_string(h.cycle) + ": no answer on s_axil within " + std::to_string(limit) + " cycles";
        return -1;
    }
    const Port& port(const std::string& name) const {
        const Port* found = h.model->find("s_axil_" + name);
        if (found == nullptr) throw std::invalid_argument("the design has no port s_axil_" + name);
        return *found;
    }
    uint8_t& pin(const std::string& name) const { return *static_cast<uint8_t*>(port(name).data); }
    void put(const std::string& name, uint64_t value) const { std::memcpy(port(name).data, &value, port(name).bytes); }

    Harness& h;
};

// One port and the values it takes or shows, cycle after cycle. Read by ctypes.
struct Lane {
    uint32_t port, bytes;
    uint8_t* values;
};

}  // namespace codesign

using codesign::Harness;
using codesign::guarded;

#define CODESIGN_API extern "C" __attribute__((visibility("default")))

// Null on failure; `message` then holds the reason.
CODESIGN_API Harness* codesign_open(const codesign::DramConfig* config, uint8_t* memory, char* message, uint64_t size) {
    try {
        return new Harness(config, memory);
    } catch (const std::exception& failure) {
        std::snprintf(message, size, "%s", failure.what());
        return nullptr;
    }
}

CODESIGN_API void codesign_close(Harness* h) { delete h; }

CODESIGN_API const char* codesign_error(const Harness* h) { return h->error.c_str(); }

CODESIGN_API uint64_t codesign_cycle(const Harness* h) { return h->cycle; }

CODESIGN_API void codesign_set(Harness* h, uint32_t port, const void* value) {
    const codesign::Port& target = h->model->ports[port];
    std::memcpy(target.data, value, target.bytes);
    h->dirty = true;
}

CODESIGN_API int64_t codesign_get(Harness* h, uint32_t port, void* value) {
    return guarded(h, [=] {
        h->settle();
        std::memcpy(value, h->model->ports[port].data, h->model->ports[port].bytes);
        return 0;
    });
}

CODESIGN_API int64_t codesign_step(Harness* h, uint64_t cycles) {
    return guarded(h, [=] {
        for (uint64_t i = 0; i < cycles; ++i) {
            if (!h->tick()) return int64_t(-1);
        }
        return int64_t(cycles);
    });
}

// Cycles until the port has the value; -2 if it has not after `limit` cycles. The port has at most 64 bits.
CODESIGN_API int64_t codesign_run_until(Harness* h, uint32_t port, uint64_t value, uint64_t limit) {
    return guarded(h, [=] {
        const codesign::Port& watched = h->model->ports[port];
        for (uint64_t i = 0;; ++i) {
            h->settle();
            if (codesign::load(watched) == value) return int64_t(i);
            if (i == limit) return int64_t(-2);
            if (!h->tick()) return int64_t(-1);
        }
    });
}

// In each cycle: sets the inputs, lets them settle, stores the outputs, and ends the cycle.
CODESIGN_API int64_t codesign_sequence(Harness* h, uint64_t cycles, const codesign::Lane* inputs, uint32_t n_inputs,
                                       const codesign::Lane* outputs, uint32_t n_outputs) {
    return guarded(h, [=] {
        for (uint64_t i = 0; i < cycles; ++i) {
            for (uint32_t k = 0; k < n_inputs; ++k) {
                std::memcpy(h->model->ports[inputs[k].port].data, inputs[k].values + i * inputs[k].bytes, inputs[k].bytes);
            }
            h->dirty = true;
            h->settle();
            for (uint32_t k = 0; k < n_outputs; ++k) {
                std::memcpy(outputs[k].values + i * outputs[k].bytes, h->model->ports[outputs[k].port].data, outputs[k].bytes);
            }
            if (!h->tick()) return int64_t(-1);
        }
        return int64_t(cycles);
    });
}

CODESIGN_API int64_t codesign_axil_write(Harness* h, uint32_t address, uint32_t data, uint32_t strobe, uint64_t limit,
                                         uint32_t* response) {
    return guarded(h, [=] { return codesign::Host(*h).write(address, data, strobe, limit, response); });
}

CODESIGN_API int64_t codesign_axil_read(Harness* h, uint32_t address, uint64_t limit, uint32_t* data, uint32_t* response) {
    return guarded(h, [=] { return codesign::Host(*h).read(address, limit, data, response); });
}

CODESIGN_API void codesign_stall(Harness* h, uint64_t seed, uint64_t threshold) {
    h->dram->stall(seed, threshold);
    h->dram->drive(h->cycle);
    h->dirty = true;
}

CODESIGN_API void codesign_record(Harness* h, uint64_t limit) {
    h->dram->events.clear();
    h->dram->event_limit = limit;
}

CODESIGN_API uint64_t codesign_events(const Harness* h, const codesign::Event** events) {
    *events = h->dram->events.data();
    return h->dram->events.size();
}

CODESIGN_API uint64_t codesign_traffic(const Harness* h, const codesign::Traffic** traffic) {
    *traffic = h->dram->traffic.data();
    return h->dram->starved;
}

// Starts writing waves; an empty path ends it.
CODESIGN_API int64_t codesign_waves(Harness* h, const char* path) {
    return guarded(h, [=] {
        h->tracing = false;
        h->model->close_trace();
        if (*path != '\0') {
            h->model->open_trace(path);
            h->tracing = true;
        }
        return 0;
    });
}
