// Early console: prints raw registers before Rust runs, and after Rust has failed.
//
// Without a UART, what it would print goes to the failure record.

        .section .text.vectors, "ax"

// early_vectors — serves as EL1's vector table until Rust installs its own.
//   in        an exception in the first instructions
//   assumes   as early_exception
//   out       does not return
//   clobbers  all, TPIDR_EL0, TPIDRRO_EL0
//   memory    as early_exception
        .balign 2048
        .global early_vectors
early_vectors:
        .irp    slot, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vector  \slot, early_exception
        .endr
        .balign 128

        .section .text.boot, "ax"

        printer early_console, early_keep

// early_keep — appends a character to the failure record's text, for want of a UART.
//   in        w9 = the character
//   assumes   as early_exception
//   out       returns to the printer
//   clobbers  x10, x12, x14, flags
//   memory    writes the failure record; uses no stack
early_keep:
        adr_l   x10, failure_record
        ldr     x12, [x10, #{FAILURE_TEXT_BYTES}]
        cmp     x12, #{FAILURE_TEXT_SIZE}
        b.hs    1f
        add     x14, x10, x12
        strb    w9, [x14, #{FAILURE_TEXT}]
        add     x12, x12, #1
        str     x12, [x10, #{FAILURE_TEXT_BYTES}]
1:      ret

// early_off — resets the machine by PSCI if Rust has read its conduit, else stops this CPU.
//   in        nothing
//   assumes   as early_exception
//   out       does not return
//   clobbers  all
//   memory    writes the failure record, cleans it to PoC, and writes early_conduit; uses no stack
early_off:
        // Clean the failure record to PoC. The dsb completes that before the machine ends.
        adr_l   x9, failure_record
        add     x10, x9, #{FAILURE_SIZE}
        dcache_line x11, x12
        dcache_by_line civac, x9, x10, x11, x12
        dsb     sy
        // Try once: a call that is not there is an exception, which comes back here.
        adr_l   x9, early_conduit
        ldr     x10, [x9]
        str     xzr, [x9]
        mov_q   x0, {SYSTEM_RESET}
        cmp     x10, #{SMC}
        b.eq    .Loff_smc
        cmp     x10, #{HVC}
        b.ne    early_silence
        hvc     #0
        b       early_silence
.Loff_smc:
        smc     #0
early_silence:
        wfi
        b       early_silence
early_console_end:

// early_exception — prints the exception's syndrome and registers, and stops this CPU.
//   in        x1 = vector slot; x0, x1 saved in TPIDR_EL0, TPIDRRO_EL0
//   assumes   the early console's UART, if any, is reachable: MMU off, or mapped as device memory;
//             SP = this CPU's boot::percpu::PerCpu
//   out       does not return
//   clobbers  all
//   memory    writes the frame that PerCpu begins with, and the failure record; reads the
//             instruction at elr, if that is in the image, and rule::NEEDS; uses no stack
early_exception:
        mov     x0, sp
        // EL2 has its MMU off, while EL1 may have dirtied these lines. Clean and invalidate them,
        // or they would later overwrite what we store now. Step by 16 bytes, the smallest line
        // there is, because no register is free to hold this CPU's line size.
        .rept   {FRAME_SIZE} / 16
        dc      civac, x0
        add     x0, x0, #16
        .endr
        dsb     sy
        sub     x0, x0, #{FRAME_SIZE}
        save_registers x0
        mov     x19, x0
        mov     x20, x1
        mrs     x25, CurrentEL
        syndrome x21, x22, x23, x24, early_console, early_off
        fail_because {REASON_EXCEPTION}
        stp     x21, x22, [x9, #{FAILURE_ESR}]
        str     x23, [x9, #{FAILURE_FAR}]
        adr_l   x26, _start
        mrs     x27, mpidr_el1

        early_uart
        say_marker early_console, exception, x20
        say     early_console, " esr=", x21
        say     early_console, " elr=", x22
        say     early_console, " far=", x23
        say     early_console, " spsr=", x24
        say     early_console, " el=", x25
        say     early_console, " base=", x26
        say     early_console, " mpidr=", x27
        mov     x23, xzr
.Lexception_register:
        say_marker early_console, register, x23
        ldr     x24, [x19, x23, lsl #3]
        say     early_console, " value=", x24
        add     x23, x23, #1
        cmp     x23, #31
        b.ne    .Lexception_register

        // If an instruction of our own text is UNDEFINED, a higher level has closed a feature. Find
        // the rule of the boot protocol that says it must be open.
        ubfx    x9, x21, #{EC_SHIFT}, #{EC_BITS}
        cbnz    x9, early_stop
        adr_l   x9, text_start
        adr_l   x10, text_end
        cmp     x22, x9
        ccmp    x22, x10, #{NZCV_C}, hs
        b.hs    early_stop
        ldr     w23, [x22]
        adr_l   x24, {NEEDS}
        mov     x25, #{NEEDS_COUNT}
.Lexception_need:
        ldp     w9, w10, [x24, #{NEED_MASK}]
        ldr     w26, [x24, #{NEED_RULE}]
        and     w9, w9, w23
        cmp     w9, w10
        b.eq    .Lexception_broken
        add     x24, x24, #{NEED_SIZE}
        subs    x25, x25, #1
        b.ne    .Lexception_need
        b       early_stop
.Lexception_broken:
        say_broken early_console, x26, ": the instruction at elr was not opened"

// early_stop — prints that nothing follows, and stops this CPU permanently. Without a UART it ends
//              the machine if it can.
//   in        nothing
//   assumes   as early_exception
//   out       does not return
//   clobbers  all
//   memory    as early_off; reads the early console's UART
        .global early_stop
early_stop:
        early_uart
        say_stopped early_console
        ldr     x9, [x8, #{UART_STATUS}]
        cbnz    x9, early_silence
        b       early_off

        // The Image names a UART here, in its first page, where a tool can write it after linking.
        // Zeros mean that there is none.
        .section .head.uart, "a"
        .balign 8
        .global early_uart_of_image
early_uart_of_image:
        .skip   {UART_SIZE}

        // The console that Rust opened. Zeros until then.
        .section .data.early_uart, "aw"
        .balign 8
        .global early_uart_opened
early_uart_opened:
        .skip   {UART_SIZE}

        // How PSCI is called, once Rust knows: a number of early_console::Conduit.
        .global early_conduit
early_conduit:
        .quad   0
