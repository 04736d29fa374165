//! What lives.
fn main() {}
