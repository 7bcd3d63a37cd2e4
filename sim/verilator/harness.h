// The seam between one Verilated design and the harness: everything that depends on the design is behind Model.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace codesign {

// A port of the top module: its storage in the model, little endian.
struct Port {
    const char* name;
    void* data;
    uint32_t bytes;
};

class Model {
public:
    virtual ~Model() = default;
    virtual void eval() = 0;
    virtual void open_trace(const std::string& path) = 0;
    virtual void dump(uint64_t time) = 0;
    virtual void close_trace() = 0;

    std::vector<Port> ports;

    // The port of that name, or null.
    const Port* find(const std::string& name) const {
        for (const Port& port : ports) {
            if (name == port.name) return &port;
        }
        return nullptr;
    }
};

// Defined once per design, in model.cpp.
std::unique_ptr<Model> make_model();

}  // namespace codesign
