//! The target `cmdline`: any bytes as the kernel's command line.
//!
//! It checks that:
//!
//! - a parameter that is refused changes nothing, and the error names the first one;
//! - a command line written out again, or given twice, parses to the same value;
//! - unknown parameters change nothing.

use protocol::cmdline::{Base, Check, Cmdline, El2, FitSource, Restart, RestartCpu, Selftest};

/// Checks an input: bytes.
pub fn hold(data: &[u8]) {
    let (cmdline, obeyed) = Cmdline::parse(data);
    assert!(cmdline.generations > 0);

    let words = data.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let (good, bad): (Vec<&[u8]>, Vec<&[u8]>) =
        words.partition(|word| Cmdline::parse(word).1.is_ok());
    match obeyed {
        Ok(()) => assert!(bad.is_empty(), "accepted {bad:?}"),
        Err(error) => {
            let word = String::from_utf8_lossy(bad[0]);
            assert!(error.to_string().starts_with(&format!("bootargs: \"{word}\": expected ")));
        }
    }
    assert_eq!(Cmdline::parse(&good.join(&b' ')), (cmdline.clone(), Ok(())));
    assert_eq!(Cmdline::parse(&[data, b" ", data].concat()).0, cmdline);
    assert_eq!(
        Cmdline::parse(&[&b"console=ttyAMA0 "[..], data, b" generation=9 Alternate"].concat()).0,
        cmdline
    );
    let cmdline = Cmdline { earlycon: None, ..cmdline };
    assert_eq!(Cmdline::parse(written(&cmdline).as_bytes()), (cmdline.clone(), Ok(())));
    for generation in [0, 1, u32::MAX] {
        assert_eq!(cmdline.alternate || cmdline.el2.is_some(), cmdline.el2(generation).is_some());
    }
}

/// Writes parameters that parse to `cmdline`.
///
/// It names every field, so that a new field fails to compile here.
fn written(cmdline: &Cmdline) -> String {
    let Cmdline {
        generations,
        payload,
        fit,
        base,
        seed,
        restart,
        el2,
        alternate,
        semihosting,
        continue_on_refusal,
        restart_cpu,
        unverified,
        force,
        check,
        selftest,
        // A UART is numbers, of which no text can be made again.
        earlycon: _,
    } = cmdline;
    let base = match base {
        Base::Same => "base=same",
        Base::Random => "base=random",
        Base::Load => "base=load",
    };
    let restart = match restart {
        Restart::Hot => "restart=hot",
        Restart::Cold => "restart=cold",
    };
    let el2 = el2.map(|el2| match el2 {
        El2::Nvhe => "el2=nvhe",
        El2::Vhe => "el2=vhe",
    });
    let fit = fit.map(|fit| match fit {
        FitSource::Initrd => "fit=initrd",
    });
    let selftest = selftest.map(|selftest| match selftest {
        Selftest::Stub => "selftest=stub",
        Selftest::Interrupts => "selftest=interrupts",
        Selftest::Lpis => "selftest=lpis",
        Selftest::Storm => "selftest=storm",
        Selftest::Heap => "selftest=heap",
    });
    let restart_cpu = restart_cpu.map(|cpu| match cpu {
        RestartCpu::Number(number) => format!("restart-cpu={number}"),
        RestartCpu::Random => "restart-cpu=random".to_owned(),
    });
    let flags = [
        alternate.then_some("alternate"),
        semihosting.then_some("semihosting"),
        continue_on_refusal.then_some("on-refusal=continue"),
        unverified.then_some("unverified"),
        force.then_some("force"),
        check.map(|check| match check {
            Check::Report => "check",
            Check::Strict => "check=strict",
        }),
    ];
    let mut words = vec![format!("generations={generations}")];
    words.extend(
        [Some(base), Some(restart), el2, fit, selftest]
            .into_iter()
            .chain(flags)
            .flatten()
            .map(str::to_owned),
    );
    words.extend(payload.as_ref().map(|name| format!("payload={name}")));
    words.extend(seed.map(|seed| format!("seed={seed:#x}")).into_iter().chain(restart_cpu));
    words.join("\t")
}
