// Exception vectors of a kernel that runs Rust: save registers, then call Rust.

        .section .text.vectors, "ax"

// exception_vectors — takes the interrupts and the exceptions of a kernel that runs Rust.
//   in        an exception
//   assumes   as interrupt_to_rust, or exception_to_rust
//   out       as interrupt_to_rust, or does not return
//   clobbers  as interrupt_to_rust, or exception_to_rust
//   memory    as interrupt_to_rust, or exception_to_rust
        .balign 2048
        .global exception_vectors
exception_vectors:
        .irp    slot, 0, 1, 2, 3, 4
        vector  \slot, exception_to_rust
        .endr
        .balign 128
        b       interrupt_to_rust
        .irp    slot, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vector  \slot, exception_to_rust
        .endr
        .balign 128

        .section .text.boot, "ax"

// interrupt_to_rust — saves what a function may change, calls the kernel's handler, and returns.
//   in        an IRQ from the kernel's own level
//   assumes   SP = a stack with room; the handler takes no exception that returns
//   out       returns to the interrupted instruction
//   clobbers  FPSR
//   memory    writes INTERRUPT_FRAME bytes below SP
interrupt_to_rust:
        sub     sp, sp, #{INTERRUPT_FRAME}
        stp     x0, x1, [sp, #0]
        stp     x2, x3, [sp, #16]
        stp     x4, x5, [sp, #32]
        stp     x6, x7, [sp, #48]
        stp     x8, x9, [sp, #64]
        stp     x10, x11, [sp, #80]
        stp     x12, x13, [sp, #96]
        stp     x14, x15, [sp, #112]
        stp     x16, x17, [sp, #128]
        stp     x18, x30, [sp, #144]
        // Save all 32 in full: a function preserves only the low halves of v8 to v15.
        add     x0, sp, #160
        st1     {{v0.2d-v3.2d}}, [x0], #64
        st1     {{v4.2d-v7.2d}}, [x0], #64
        st1     {{v8.2d-v11.2d}}, [x0], #64
        st1     {{v12.2d-v15.2d}}, [x0], #64
        st1     {{v16.2d-v19.2d}}, [x0], #64
        st1     {{v20.2d-v23.2d}}, [x0], #64
        st1     {{v24.2d-v27.2d}}, [x0], #64
        st1     {{v28.2d-v31.2d}}, [x0], #64
        bl      {INTERRUPT}
        add     x0, sp, #160
        ld1     {{v0.2d-v3.2d}}, [x0], #64
        ld1     {{v4.2d-v7.2d}}, [x0], #64
        ld1     {{v8.2d-v11.2d}}, [x0], #64
        ld1     {{v12.2d-v15.2d}}, [x0], #64
        ld1     {{v16.2d-v19.2d}}, [x0], #64
        ld1     {{v20.2d-v23.2d}}, [x0], #64
        ld1     {{v24.2d-v27.2d}}, [x0], #64
        ld1     {{v28.2d-v31.2d}}, [x0], #64
        ldp     x18, x30, [sp, #144]
        ldp     x16, x17, [sp, #128]
        ldp     x14, x15, [sp, #112]
        ldp     x12, x13, [sp, #96]
        ldp     x10, x11, [sp, #80]
        ldp     x8, x9, [sp, #64]
        ldp     x6, x7, [sp, #48]
        ldp     x4, x5, [sp, #32]
        ldp     x2, x3, [sp, #16]
        ldp     x0, x1, [sp, #0]
        add     sp, sp, #{INTERRUPT_FRAME}
        eret

// exception_to_rust — saves the interrupted state and calls the kernel's fatal-exception handler.
//   in        x1 = vector slot; x0, x1 saved in TPIDR_EL0, TPIDRRO_EL0
//   assumes   TPIDR_EL1 = top of this CPU's exception stack; the kernel's own stack may be what
//             failed
//   out       does not return; handler(frame) at the same level, DAIF masked
//   clobbers  all
//   memory    writes a frame at the top of the exception stack
exception_to_rust:
        mrs     x0, tpidr_el1
        sub     x0, x0, #{FRAME_SIZE}
        save_registers x0
        mov     x2, sp
        str     x2, [x0, #{SP}]
        // Under E2H these EL1 names reach EL2's registers: one code serves every mode. (TPIDR_EL1
        // is not redirected.)
        mrs     x2, esr_el1
        mrs     x3, elr_el1
        stp     x2, x3, [x0, #{ESR}]
        mrs     x2, far_el1
        mrs     x3, spsr_el1
        stp     x2, x3, [x0, #{FAR}]
        str     x1, [x0, #{SLOT}]
        mov     sp, x0
        mov     x29, xzr
        bl      {HANDLER}
        b       early_stop
