//! One node in a test: its core, its disk, and what it was told to do and has not done.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::id::{BlockIndex, ContentId, LeaseId};
use shoal_proto::node::{Node, Opened};
use shoal_proto::runs::StepRecord;
use shoal_proto::time::Time;
use shoal_proto::wan::Lacking;
use shoal_proto::wire::{Grant, StepRun};

use crate::plan::id;

/// A machine.
pub(crate) struct Agent {
    /// What outlives its process.
    pub(crate) disk: BTreeMap<ContentId, Stored>,
    pub(crate) records: Vec<StepRecord>,
    pub(crate) process: Option<Process>,
    seed: u64,
}

/// A content on a disk.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) block_bytes: Vec<u32>,
    /// Bytes lacking of each block.
    pub(crate) lacking: Vec<u32>,
    pub(crate) sealed: bool,
}

impl Stored {
    pub(crate) fn lacks(&self, block: BlockIndex) -> u32 {
        self.lacking[block.index()]
    }

    pub(crate) fn opened(&self) -> Opened {
        let lacking = self.lacking.iter().zip(0..).filter(|(bytes, _)| **bytes > 0);
        let lacking = lacking.map(|(bytes, block)| Lacking { block: BlockIndex(block), bytes: *bytes }).collect();
        let sum = |bytes: &[u32]| bytes.iter().map(|bytes| u64::from(*bytes)).sum::<u64>();
        Opened {
            block_bytes: self.block_bytes.clone(),
            lacking,
            local_bytes: sum(&self.block_bytes) - sum(&self.lacking),
            sealed: self.sealed,
        }
    }
}

/// The agent that runs on it.
pub(crate) struct Process {
    pub(crate) core: Node,
    pub(crate) started: Time,
    /// Whether it is connected with the coordinator.
    pub(crate) online: bool,
    /// Whom its roster names.
    pub(crate) roster: BTreeSet<usize>,
    /// Neighbours that it is connected with.
    pub(crate) links: BTreeSet<usize>,
    /// Leases that it works on, in order.
    pub(crate) reads: Vec<Read>,
    /// Leases that it was told to read on for with another proof.
    pub(crate) renewed: Vec<LeaseId>,
    /// How fast it may read for them.
    pub(crate) wan_rate: Option<u64>,
    /// Leases that it was told to stop reading for, and has not.
    pub(crate) stopping: Vec<LeaseId>,
    /// Blocks that it asked neighbours for and that did not come.
    pub(crate) fetches: Vec<(usize, ContentId, BlockIndex)>,
    /// Every step that was started here.
    pub(crate) started_steps: Vec<StepRun>,
    pub(crate) killed_steps: Vec<StepRun>,
    /// Contents that it was told to close.
    pub(crate) closed: Vec<ContentId>,
}

/// A lease that is worked on, and what was read for it.
pub(crate) struct Read {
    pub(crate) grant: Grant,
    pub(crate) bytes: u64,
    /// How much it may read.
    pub(crate) credit_bytes: u64,
}

impl Agent {
    pub(crate) fn new(number: usize) -> Self {
        Self { disk: BTreeMap::new(), records: Vec::new(), process: None, seed: 7 + number as u64 }
    }

    pub(crate) fn start(&mut self, number: usize, now: Time) {
        self.seed += 1000;
        self.process = Some(Process {
            core: Node::new(id(number), self.seed, self.records.clone()),
            started: now,
            online: false,
            roster: BTreeSet::new(),
            links: BTreeSet::new(),
            reads: Vec::new(),
            renewed: Vec::new(),
            wan_rate: None,
            stopping: Vec::new(),
            fetches: Vec::new(),
            started_steps: Vec::new(),
            killed_steps: Vec::new(),
            closed: Vec::new(),
        });
    }

    pub(crate) fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("the node runs")
    }

    /// The blocks that it has whole.
    pub(crate) fn blocks(&self, content: ContentId) -> Vec<u32> {
        let lacking = self.disk.get(&content).map_or(&[][..], |stored| &stored.lacking);
        lacking.iter().zip(0..).filter(|(bytes, _)| **bytes == 0).map(|(_, block)| block).collect()
    }

    /// The blocks of its leases for a content that it lacks, in order.
    pub(crate) fn to_read(&self, content: ContentId) -> Vec<u32> {
        let reads = self.process.iter().flat_map(|process| &process.reads);
        let blocks = reads.filter(|read| read.grant.content == content).flat_map(|read| &read.grant.blocks);
        let lacks = |block: &BlockIndex| self.disk[&content].lacks(*block) > 0;
        let mut blocks: Vec<u32> = blocks.flat_map(|range| range.iter()).filter(lacks).map(|block| block.0).collect();
        blocks.sort_unstable();
        blocks
    }
}
