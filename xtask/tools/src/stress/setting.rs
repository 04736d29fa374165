//! The inputs that all runs of a campaign share.

use std::{sync::Arc, time::Duration};

use harness::{config::Config, kernel_build::Built};

use super::progress::Counters;

/// The inputs of every run.
#[derive(Clone)]
pub struct Setting {
    /// The content of qemu.toml.
    pub config: Arc<Config>,
    /// The kernel.
    pub kernel: Arc<Built>,
    /// The seed of the campaign.
    pub seed: u64,
    /// The longest that a console may be silent.
    pub silence: Duration,
    /// The options for the user's own parts, as typed.
    pub parts: Vec<String>,
    /// The counters for the progress display.
    pub counters: Counters,
}
