// Functional model of a DSP48E2 for the modes that the generated designs use. Source: AMD UG579.
//
// Any other attribute or dynamic mode stops the simulation, so that a wrong mode never looks right.
// The reset pins and the pins of unused features are absent: a connection to one is an error.
module DSP48E2 #(
    parameter AMULTSEL = "A", parameter BMULTSEL = "B", parameter A_INPUT = "DIRECT", parameter B_INPUT = "DIRECT",
    parameter USE_MULT = "MULTIPLY", parameter USE_SIMD = "ONE48",
    parameter integer AREG = 1, parameter integer ACASCREG = 1, parameter integer BREG = 1, parameter integer BCASCREG = 1,
    parameter integer CREG = 1, parameter integer DREG = 1, parameter integer ADREG = 1, parameter integer MREG = 1,
    parameter integer PREG = 1, parameter integer INMODEREG = 1, parameter integer OPMODEREG = 1,
    parameter integer ALUMODEREG = 1, parameter integer CARRYINREG = 1, parameter integer CARRYINSELREG = 1
) (
    input CLK,
    input [29:0] A, input [17:0] B, input [47:0] C, input [26:0] D, input [47:0] PCIN,
    input [8:0] OPMODE, input [3:0] ALUMODE, input [4:0] INMODE, input CARRYIN, input [2:0] CARRYINSEL,
    input CEA1, input CEA2, input CEB1, input CEB2, input CEC, input CED, input CEAD, input CEM, input CEP,
    output [47:0] P, output [47:0] PCOUT
);
    initial begin
        if (A_INPUT != "DIRECT" || B_INPUT != "DIRECT" || BMULTSEL != "B" || USE_MULT != "MULTIPLY" || USE_SIMD != "ONE48")
            $fatal(1, "DSP48E2: attribute outside the model");
        if (AMULTSEL != "A" && AMULTSEL != "AD") $fatal(1, "DSP48E2: AMULTSEL is neither A nor AD");
        if (INMODEREG + OPMODEREG + ALUMODEREG + CARRYINREG + CARRYINSELREG != 0) $fatal(1, "DSP48E2: registered mode");
        if (AREG > 2 || BREG > 2 || CREG > 1 || DREG > 1 || ADREG > 1 || MREG > 1 || PREG > 1)
            $fatal(1, "DSP48E2: illegal number of registers");
        // UG579: the cascade register count equals AREG, or is 1 where AREG is 2; likewise for B.
        if (!(ACASCREG == AREG || (AREG == 2 && ACASCREG == 1))) $fatal(1, "DSP48E2: illegal ACASCREG");
        if (!(BCASCREG == BREG || (BREG == 2 && BCASCREG == 1))) $fatal(1, "DSP48E2: illegal BCASCREG");
    end
    always @(posedge CLK) begin
        if (ALUMODE != 0 || CARRYIN != 0 || CARRYINSEL != 0) $fatal(1, "DSP48E2: only Z + W + X + Y is modelled");
        if (OPMODE[1:0] != 2'b01 || OPMODE[3:2] != 2'b01) $fatal(1, "DSP48E2: X and Y must take the product");
        if (AMULTSEL == "A" ? INMODE != 5'b00000 : INMODE != 5'b00100) $fatal(1, "DSP48E2: INMODE outside the model");
    end

    reg [29:0] a1 = 0, a2 = 0;
    reg [17:0] b1 = 0, b2 = 0;
    reg [47:0] c1 = 0, p1 = 0;
    reg [26:0] d1 = 0, ad1 = 0;
    reg [44:0] m1 = 0;

    // With one register only the second of A and of B is in use, with CEA2 and CEB2.
    wire [29:0] a = AREG == 0 ? A : a2;
    wire [17:0] b = BREG == 0 ? B : b2;
    wire [47:0] c = CREG == 0 ? C : c1;
    wire [26:0] d = DREG == 0 ? D : d1;
    wire [26:0] sum = d + a[26:0];
    wire [26:0] ad = ADREG == 0 ? sum : ad1;
    wire [26:0] factor = AMULTSEL == "AD" ? ad : a[26:0];
    wire [44:0] product = $signed(factor) * $signed(b);
    wire [44:0] m = MREG == 0 ? product : m1;
    reg [47:0] z, w;
    always @* begin
        case (OPMODE[6:4])
            3'b000: z = 0;
            3'b001: z = PCIN;
            3'b010: z = P;
            3'b011: z = c;
            default: z = 48'hx;
        endcase
        case (OPMODE[8:7])
            2'b00: w = 0;
            2'b01: w = P;
            2'b11: w = c;
            default: w = 48'hx;
        endcase
    end
    wire [47:0] result = z + w + {{3{m[44]}}, m};
    always @(posedge CLK) begin
        if (CEA1) a1 <= A;
        if (CEA2) a2 <= AREG == 2 ? a1 : A;
        if (CEB1) b1 <= B;
        if (CEB2) b2 <= BREG == 2 ? b1 : B;
        if (CEC) c1 <= C;
        if (CED) d1 <= D;
        if (CEAD) ad1 <= sum;
        if (CEM) m1 <= product;
        if (CEP) p1 <= result;
    end
    assign P = PREG == 0 ? result : p1;
    assign PCOUT = P;
endmodule
