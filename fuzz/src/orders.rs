//! The target `orders`: any text as the kernel's command line.
//!
//! It checks that:
//!
//! - a parameter that is refused changes nothing, and the error names the first one;
//! - a command line written out again, or given twice, parses to the same value;
//! - unknown parameters change nothing.

use kernel::orders::{Base, El2, Orders, Restart, RestartCpu, Selftest};

/// Checks an input: text.
pub fn hold(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (orders, obeyed) = Orders::parse(text);
    assert!(orders.generations > 0);

    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let (good, bad): (Vec<&str>, Vec<&str>) =
        words.iter().copied().partition(|word| Orders::parse(word).1.is_ok());
    match obeyed {
        Ok(()) => assert!(bad.is_empty(), "accepted {bad:?}"),
        Err(refused) => assert!(
            refused.to_string().starts_with(&format!("bootargs: \"{}\": expected ", bad[0]))
        ),
    }
    assert_eq!(Orders::parse(&good.join(" ")), (orders.clone(), Ok(())));
    assert_eq!(Orders::parse(&format!("{text} {text}")).0, orders);
    assert_eq!(Orders::parse(&format!("console=ttyAMA0 {text} generation=9 Alternate")).0, orders);
    assert_eq!(Orders::parse(&written(&orders)), (orders.clone(), Ok(())));
    for generation in [0, 1, u32::MAX] {
        assert_eq!(orders.alternate || orders.el2.is_some(), orders.el2(generation).is_some());
    }
}

/// Writes parameters that parse to `orders`.
///
/// It names every field, so that a new field fails to compile here.
fn written(orders: &Orders) -> String {
    let Orders {
        generations,
        payload,
        base,
        seed,
        restart,
        el2,
        alternate,
        semihosting,
        continue_on_refusal,
        restart_cpu,
        force,
        check,
        selftest,
    } = orders;
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
    let selftest = selftest.map(|selftest| match selftest {
        Selftest::Stub => "selftest=stub",
        Selftest::Interrupts => "selftest=interrupts",
        Selftest::Lpis => "selftest=lpis",
        Selftest::Storm => "selftest=storm",
    });
    let restart_cpu = restart_cpu.map(|cpu| match cpu {
        RestartCpu::Number(number) => format!("restart-cpu={number}"),
        RestartCpu::Random => "restart-cpu=random".to_owned(),
    });
    let flags = [
        alternate.then_some("alternate"),
        semihosting.then_some("semihosting"),
        continue_on_refusal.then_some("on-refusal=continue"),
        force.then_some("force"),
        check.then_some("check"),
    ];
    let mut words = vec![format!("generations={generations}")];
    words.extend(
        [Some(base), Some(restart), el2, selftest]
            .into_iter()
            .chain(flags)
            .flatten()
            .map(str::to_owned),
    );
    words.extend(payload.as_ref().map(|name| format!("payload={name}")));
    words.extend(seed.map(|seed| format!("seed={seed:#x}")).into_iter().chain(restart_cpu));
    words.join("\t")
}
