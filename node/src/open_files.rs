//! How many files the process may have open: raised at start to what the system allows at most, since each connection is
//! one, and handed on to scripts as it was before.
//!
//! Systems set the soft limit low for programs that cannot deal with high numbers of files, those of steps among them;
//! one that can raises its own up to the hard limit.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shoal_proto::limits::{CONNECTIONS_PER_NODE, FILES_BESIDE_CONNECTIONS};
use tracing::warn;

/// The soft limit before it was raised, where it was.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises the limit as far as the system allows. What fails is logged: there is a limit then, too.
pub fn raise() {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return warn!(%error, "cannot see how many files may be open"),
    };
    if soft >= hard {
        return;
    }
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => _ = BEFORE.get_or_init(|| soft),
        Err(error) => warn!(%error, soft, hard, "cannot raise how many files may be open"),
    }
}

/// `script` with the limit that the process was started with. The shell sets it, as its first command and on the script's
/// first line: set by its parent, it would come too late for what the shell starts at once.
pub(crate) fn as_before(script: &str) -> String {
    BEFORE.get().map_or_else(|| script.to_owned(), |soft| format!("ulimit -S -n {soft}; {script}"))
}

/// Says once that the limit is too low for the nodes that there are.
#[derive(Debug, Default)]
pub struct Suffice {
    warned: bool,
}

impl Suffice {
    /// Looks whether `nodes` may be connected at the same time.
    pub fn look(&mut self, nodes: usize) {
        let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
        let needed = needed(nodes);
        if needed > limit && !self.warned {
            self.warned = true;
            warn!(
                limit,
                nodes,
                needed,
                "too few files may be open: connections will be refused or lost; raise the hard limit (`LimitNOFILE=` of \
                 a systemd unit, `ulimit -H -n` of a shell) and start again"
            );
        }
    }
}

/// Files that may have to be open with `nodes` connected.
fn needed(nodes: usize) -> u64 {
    FILES_BESIDE_CONNECTIONS + CONNECTIONS_PER_NODE * nodes as u64
}
