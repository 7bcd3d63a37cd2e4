// One Verilated design behind the Model interface. Compiled once per design; ports.inc is generated:
// one line {"name", &top.member, sizeof(top.member)}, per port.
#include "Vtop.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

#include "harness.h"

#include <stdexcept>

namespace {

class VerilatedDesign final : public codesign::Model {
public:
    VerilatedDesign() {
        context.traceEverOn(VM_TRACE != 0);
        ports = {
#include "ports.inc"
        };
    }
    ~VerilatedDesign() override {
        close_trace();
        top.final();
    }
    void eval() override { top.eval(); }

#if VM_TRACE
    void open_trace(const std::string& path) override {
        close_trace();
        trace = std::make_unique<VerilatedVcdC>();
        top.trace(trace.get(), 99);
        trace->open(path.c_str());
        if (!trace->isOpen()) {
            trace.reset();
            throw std::runtime_error("cannot write waves to " + path);
        }
    }
    void dump(uint64_t time) override { trace->dump(time); }
    void close_trace() override {
        if (trace) trace->close();
        trace.reset();
    }
#else
    void open_trace(const std::string&) override { throw std::runtime_error("built without waves"); }
    void dump(uint64_t) override {}
    void close_trace() override {}
#endif

private:
    VerilatedContext context;
    Vtop top{&context, "TOP"};
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> trace;
#endif
};

}  // namespace

std::unique_ptr<codesign::Model> codesign::make_model() { return std::make_unique<VerilatedDesign>(); }
