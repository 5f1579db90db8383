//! The processes that a script started, so that all of them can be ended.
//!
//! A script runs in a process group of its own; killing the group reaches all that did not leave it. On Linux, `/proc`
//! also shows descendants that made groups or sessions of their own, as long as their ancestors were alive when looked
//! at; a process is known by its number and start time, so that a number used again hits nobody else. What detached
//! itself from the tree before anybody looked (a daemon that forked twice into a new session) is not found.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Numbers from one process's line in `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    group: i32,
    /// In clock ticks since boot.
    started: u64,
    /// It has ended, and only its parent has not noticed.
    ended: bool,
}

/// The tree of processes under one leader of a process group.
#[derive(Debug)]
pub(super) struct Tree {
    leader: Pid,
    /// Everyone ever seen in it: number and start time.
    members: BTreeMap<i32, u64>,
    /// The leader was waited for, so that its number may belong to somebody else once its group is empty.
    leader_reaped: bool,
}

impl Tree {
    /// The tree of `leader`, which leads its own process group and was not waited for yet.
    pub(super) fn new(leader: i32) -> Self {
        Self { leader: Pid::from_raw(leader), members: BTreeMap::new(), leader_reaped: false }
    }

    /// Says that the leader has ended and was waited for.
    pub(super) fn leader_reaped(&mut self) {
        self.leader_reaped = true;
    }

    /// Sends `signal` to everyone in the tree.
    pub(super) fn signal(&mut self, signal: Signal) {
        let alive = self.look();
        // Errors mean that there is nobody left to get the signal.
        if !self.leader_reaped || alive.values().any(|process| process.group == self.leader.as_raw()) {
            let _ = killpg(self.leader, signal);
        }
        for (pid, process) in alive {
            if process.group != self.leader.as_raw() {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
    }

    /// Whether nobody of the tree is alive.
    pub(super) fn is_gone(&mut self) -> bool {
        if cfg!(target_os = "linux") { self.look().is_empty() } else { killpg(self.leader, None).is_err() }
    }

    /// Everyone of the tree who is alive. Adds those who were not known.
    fn look(&mut self) -> BTreeMap<i32, Process> {
        let mut all = all_processes();
        let is_leaders_own = |tree: &Self, pid: i32, process: &Process| {
            process.group == tree.leader.as_raw() && (!tree.leader_reaped || pid != tree.leader.as_raw())
        };
        loop {
            let found: Vec<(i32, u64)> = all
                .iter()
                .filter(|(pid, _)| !self.members.contains_key(pid))
                .filter(|(pid, process)| is_leaders_own(self, **pid, process) || self.is_child(process, &all))
                .map(|(pid, process)| (*pid, process.started))
                .collect();
            if found.is_empty() {
                break;
            }
            self.members.extend(found);
        }
        all.retain(|pid, process| self.members.get(pid) == Some(&process.started) && !process.ended);
        all
    }

    /// Whether `process` was started by a member that is still the process it was.
    fn is_child(&self, process: &Process, all: &BTreeMap<i32, Process>) -> bool {
        let parent = self.members.get(&process.parent);
        parent.is_some() && parent.copied() == all.get(&process.parent).map(|parent| parent.started)
    }
}

/// Every process of this machine that can be seen; none where there is no `/proc`.
fn all_processes() -> BTreeMap<i32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    // A process may end between the two looks: then it is not there.
    numbers.filter_map(|pid| Some((pid, parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// Reads a line of `/proc/<pid>/stat` (proc_pid_stat(5)). The command's name is in parentheses and may hold any of them.
fn parse_stat(line: &str) -> Option<Process> {
    let fields: Vec<&str> = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X" | "x"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_command_is_called() {
        let rest = "S 7 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2 3";
        let process = Process { parent: 7, group: 9, started: 12_345, ended: false };
        assert_eq!(parse_stat(&format!("42 (sh) {rest}")), Some(process));
        assert_eq!(parse_stat(&format!("42 (a) Z 1 (b) {rest}")), Some(process));
        assert_eq!(parse_stat("42 (sh) S 7"), None);
        assert_eq!(parse_stat(""), None);
    }
}
