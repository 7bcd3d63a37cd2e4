// What every testbench needs: words from text files into streams, and the results back to a file.
//
// A folder holds commands.txt (one command per line: its operands, then the words of each stream), one
// file of hexadecimal words per input stream and one of numbers per memory. Results go to NAME.hex; where
// there is a NAME.expected.hex they are compared with it, word for word.
#pragma once

#include "number_hls.h"

#include <hls_stream.h>

#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace codesign {

class Bench {
public:
    explicit Bench(const std::string& folder)
        : folder_(folder), commands_((folder + "/commands.txt").c_str()), failures_(0) {
        if (!commands_) fail("no file " + folder + "/commands.txt");
    }

    // The next command's operands and word counts; false behind the last one.
    bool command(std::vector<long long>& values, unsigned count) {
        std::string line;
        if (!std::getline(commands_, line)) return false;
        std::istringstream text(line);
        values.assign(count, 0);
        for (unsigned i = 0; i < count; i++) {
            if (!(text >> values[i])) {
                fail("commands.txt: too few numbers in: " + line);
                return false;
            }
        }
        return true;
    }

    template <int W>
    void memory(const std::string& name, ap_int<W>* words, unsigned count) {
        std::ifstream file((folder_ + "/" + name + ".txt").c_str());
        int value = 0;
        for (unsigned i = 0; i < count; i++) {
            if (!(file >> value)) return fail(name + ".txt: too few numbers");
            words[i] = value;
        }
    }

    template <int W>
    void push(const std::string& name, hls::stream<ap_uint<W> >& stream, long long count) {
        std::string digits;
        for (long long i = 0; i < count; i++) {
            if (!(input(name) >> digits)) return fail(name + ".hex: too few words");
            stream.write(parse<W>(digits));
        }
    }

    template <int W>
    void pull(const std::string& name, hls::stream<ap_uint<W> >& stream, long long count) {
        for (long long i = 0; i < count; i++) {
            if (stream.empty()) return fail(name + ": too few words written");
            results_[name].push_back(print<W>(stream.read()));
        }
        drained(name, stream);
    }

    // Every word of a command's streams is used up by it.
    template <int W>
    void drained(const std::string& name, hls::stream<ap_uint<W> >& stream) {
        if (!stream.empty()) fail(name + ": words left over");
        while (!stream.empty()) stream.read();
    }

    // Writes and compares the results; the exit code of the program.
    int finish() {
        for (std::map<std::string, std::vector<std::string> >::iterator i = results_.begin(); i != results_.end(); ++i) {
            std::ofstream file((folder_ + "/" + i->first + ".hex").c_str());
            for (unsigned k = 0; k < i->second.size(); k++) file << i->second[k] << "\n";
            compare(i->first, i->second);
        }
        std::cout << (failures_ == 0 ? "PASS" : "FAIL") << std::endl;
        return failures_ == 0 ? 0 : 1;
    }

private:
    void fail(const std::string& text) {
        std::cout << "FAIL: " << text << std::endl;
        failures_++;
    }

    std::ifstream& input(const std::string& name) {
        std::ifstream& file = inputs_[name];
        if (!file.is_open()) file.open((folder_ + "/" + name + ".hex").c_str());
        return file;
    }

    void compare(const std::string& name, const std::vector<std::string>& got) {
        std::ifstream file((folder_ + "/" + name + ".expected.hex").c_str());
        if (!file) return;
        std::string expected;
        unsigned count = 0;
        for (; file >> expected; count++) {
            if (count >= got.size() || got[count] != expected) {
                std::ostringstream text;
                text << name << " word " << count << ": expected " << expected << ", got "
                     << (count < got.size() ? got[count] : "nothing");
                return fail(text.str());
            }
        }
        if (count != got.size()) fail(name + ": more words than expected");
    }

    template <int W>
    static ap_uint<W> parse(const std::string& digits) {
        ap_uint<W> word = 0;
        for (unsigned i = 0; i < digits.size(); i++) {
            const char c = digits[digits.size() - 1 - i];
            word.range(4 * i + 3, 4 * i) = c <= '9' ? c - '0' : c - 'a' + 10;
        }
        return word;
    }

    template <int W>
    static std::string print(const ap_uint<W>& word) {
        std::string digits(W / 4, '0');
        for (int i = 0; i < W / 4; i++) {
            const int digit = word.range(4 * i + 3, 4 * i).to_int();
            digits[W / 4 - 1 - i] = char(digit < 10 ? '0' + digit : 'a' + digit - 10);
        }
        return digits;
    }

    std::string folder_;
    std::ifstream commands_;
    std::map<std::string, std::ifstream> inputs_;
    std::map<std::string, std::vector<std::string> > results_;
    int failures_;
};

}  // namespace codesign
