//! Links the bare-metal kernel by boot's linker script; a host build, for the unit tests, has none.

fn main() {
    println!("cargo::rerun-if-changed=../boot/image.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let script = std::path::absolute("../boot/image.ld").expect("a current directory");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}
