//! The bytes of every control message. A change of `snapshots/control_bytes__golden.snap` other than further lines breaks
//! the mesh between versions: it raises [`codec::VERSION`].
//!
//! To add a variant, add an arm with its samples to `samples!` below; without it, this file does not compile.

use shoal_proto::codec::{self, CodecError};
use shoal_proto::content::BlockSet;
use shoal_proto::id::{BlockIndex, ContentId, DeploymentId, Epoch, Generation, LeaseId, Name, NodeId};
use shoal_proto::id::{PackageId, PackageIndex, RecipeId, StepIndex};
use shoal_proto::limits::CONTROL_MESSAGE_BYTES_MAX;
use shoal_proto::manifest::{Phase, Signed, StepRef};
use shoal_proto::origin::HttpOrigin;
use shoal_proto::outputs::Outputs;
use shoal_proto::rollout::variables::Told;
use shoal_proto::rollout::{Failure, StepOutcome};
use shoal_proto::wan::credit::Terms;
use shoal_proto::wan::{BlockRange, HeldLease, Lacking, Outcome};
use shoal_proto::wire::{
    AcquireStats, Fault, FaultKind, Frame, Grant, Hello, Inventory, JoinProof, LeaseEnd, Neighbour, Origin,
    OutputStream, Roster, Standby, StepRun, ToCoordinator, ToNeighbour, ToNode, WanRates,
};

/// No message here has more bytes: a message that grows past this is to be noticed.
const SAMPLE_BYTES_MAX: usize = 200;

const CONTENT: ContentId = ContentId([0xc0; 32]);
const NODE: NodeId = NodeId([0xa1; 32]);
const DEPLOYMENT: DeploymentId = DeploymentId(300);
const GENERATION: Generation = Generation(9);
const LEASE: LeaseId = LeaseId(7);
const PACKAGE: PackageIndex = PackageIndex(2);

/// A function with the named samples of an enum: an arm for each variant, or the `match` is not exhaustive.
macro_rules! samples {
    ($function:ident, $enum:ident { $($variant:ident => [$($sample:expr),+ $(,)?],)+ }) => {
        fn $function() -> Vec<(&'static str, Frame)> {
            let name = |message: &$enum| match message {
                $($enum::$variant { .. } => stringify!($variant),)+
            };
            let mut samples = Vec::new();
            $($({
                let sample: $enum = $sample;
                assert_eq!(name(&sample), stringify!($variant), "a sample under another variant's name");
                samples.push((concat!(stringify!($enum), "::", stringify!($variant)), Frame::$enum(sample)));
            })+)+
            samples
        }
    };
}

samples!(to_coordinator, ToCoordinator {
    Hello => [
        ToCoordinator::Hello(hello(Some(JoinProof { token: 3, secret: [0x5e; 32] }), Some(name("syd")))),
        ToCoordinator::Hello(hello(None, None)),
    ],
    Wants => [ToCoordinator::Wants { content: CONTENT, lacking: lacking(), held: held() }],
    Landed => [ToCoordinator::Landed { content: CONTENT, blocks: blocks() }],
    LeaseEnded => [
        lease_ended(Outcome::Done, None),
        lease_ended(Outcome::Failed { retryable: true }, Some(FaultKind::Passing)),
        lease_ended(Outcome::Failed { retryable: false }, Some(FaultKind::IgnoresRanges)),
        lease_ended(Outcome::Failed { retryable: false }, Some(FaultKind::Changed)),
        lease_ended(Outcome::Failed { retryable: false }, Some(FaultKind::WrongBytes)),
        lease_ended(Outcome::Failed { retryable: true }, Some(FaultKind::Denied)),
        lease_ended(Outcome::Failed { retryable: true }, Some(FaultKind::Unanswered)),
        lease_ended(Outcome::Revoked, None),
    ],
    Stuck => [ToCoordinator::Stuck { content: CONTENT, blocks: blocks() }],
    Left => [ToCoordinator::Left { content: CONTENT }],
    Acquired => [ToCoordinator::Acquired { deployment: DEPLOYMENT, package: PACKAGE, stats: stats() }],
    AcquireFailed => [
        ToCoordinator::AcquireFailed { deployment: DEPLOYMENT, package: PACKAGE, cause: "gone".into() },
    ],
    StepStarted => [
        ToCoordinator::StepStarted(run(Phase::Before)),
        ToCoordinator::StepStarted(run(Phase::Steps)),
        ToCoordinator::StepStarted(run(Phase::Always)),
        ToCoordinator::StepStarted(run(Phase::After)),
    ],
    StepEnded => [
        step_ended(StepOutcome::Succeeded),
        step_ended(StepOutcome::Failed(Failure::Exit(-1))),
        step_ended(StepOutcome::Failed(Failure::Cause("gone".into()))),
        step_ended(StepOutcome::TimedOut),
        step_ended(StepOutcome::Killed),
        step_ended(StepOutcome::Unknown),
    ],
    StepOutput => [
        output(OutputStream::Stdout),
        output(OutputStream::Stderr),
        output(OutputStream::Notice),
    ],
    Lied => [ToCoordinator::Lied { neighbour: NODE, content: CONTENT }],
    WanRate => [ToCoordinator::WanRate { rate: 2_000_000 }],
    Inventory => [
        ToCoordinator::Inventory(Inventory::default()),
        ToCoordinator::Inventory(Inventory {
            packages: vec![PackageId([0x9a; 32])],
            cache_bytes: 2_000_000,
            free_bytes: Some(1_000_000),
        }),
    ],
    StepWrote => [ToCoordinator::StepWrote { run: run(Phase::Steps), outputs: outputs() }],
    StepReady => [ToCoordinator::StepReady(run(Phase::Steps))],
    Denied => [ToCoordinator::Denied { content: CONTENT, lease: LEASE }],
    CreditWanted => [ToCoordinator::CreditWanted { content: CONTENT, lease: LEASE, bytes: 262_144 }],
    Begun => [ToCoordinator::Begun { content: CONTENT, lacking: vec![Lacking { block: BlockIndex(7), bytes: 65_536 }] }],
});

samples!(to_node, ToNode {
    Welcome => [ToNode::Welcome { epoch: Epoch(4), site: name("syd") }],
    Refused => [ToNode::Refused { reason: "revoked".into() }],
    Roster => [ToNode::Roster(Roster { number: 5, coordinator_bulk: addresses(), neighbours: vec![neighbour()] })],
    Deploy => [ToNode::Deploy { generation: GENERATION, signed: signed() }],
    Acquire => [ToNode::Acquire { deployment: DEPLOYMENT, generation: GENERATION }],
    StopAcquire => [ToNode::StopAcquire { deployment: DEPLOYMENT, generation: GENERATION }],
    Grant => [
        grant(Origin::Coordinator { dictionary: None }),
        grant(Origin::Coordinator { dictionary: Some(RecipeId([0xd1; 32])) }),
        grant(Origin::Http(http())),
    ],
    Revoke => [ToNode::Revoke { content: CONTENT, lease: LEASE }],
    Run => [ToNode::Run { run: run(Phase::Before), generation: GENERATION }],
    Kill => [ToNode::Kill { run: run(Phase::Before), generation: GENERATION }],
    End => [ToNode::End { deployment: DEPLOYMENT }],
    Standby => [
        ToNode::Standby(Standby { content: CONTENT, deputies: vec![NODE], origin: Origin::Http(http()) }),
        ToNode::Standby(Standby { content: CONTENT, deputies: Vec::new(), origin: Origin::Coordinator { dictionary: None } }),
    ],
    Variables => [ToNode::Variables { deployment: DEPLOYMENT, told: told() }],
    WanRate => [
        ToNode::WanRate(WanRates::default()),
        ToNode::WanRate(WanRates { rate: Some(0), away: Some(1_000_000), alone: Some(2_000_000) }),
    ],
    Outputs => [ToNode::Outputs { deployment: DEPLOYMENT, outputs: [(run(Phase::Before).step, outputs())].into() }],
    Offer => [ToNode::Offer { run: run(Phase::Steps), generation: GENERATION }],
    Renewed => [ToNode::Renewed { content: CONTENT, lease: LEASE, origin: http() }],
    WanLimit => [ToNode::WanLimit { limit: Some(3_000_000) }, ToNode::WanLimit { limit: None }],
    Credit => [ToNode::Credit { content: CONTENT, lease: LEASE, bytes: 262_144 }],
});

samples!(to_neighbour, ToNeighbour {
    Has => [ToNeighbour::Has { content: CONTENT, blocks: block_set() }],
    Landed => [ToNeighbour::Landed { content: CONTENT, blocks: blocks() }],
    Left => [ToNeighbour::Left { content: CONTENT }],
    Reach => [ToNeighbour::Reach { hops: 8 }],
    Reading => [ToNeighbour::Reading { content: CONTENT, granted: blocks(), own: Vec::new(), fails: true }],
    Room => [ToNeighbour::Room { content: CONTENT }],
    WanRate => [ToNeighbour::WanRate { rate: 1_000_000 }],
});

fn told() -> Told {
    let one = |name: &str, text: &str| [(name.to_owned(), text.to_owned())].into();
    Told { plain: one("port", "80"), secret: one("key", "hunter2") }
}

fn samples() -> Vec<(&'static str, Frame)> {
    to_coordinator().into_iter().chain(to_node()).chain(to_neighbour()).collect()
}

#[test]
fn golden() {
    let line = |(name, frame): (&str, Frame)| {
        let bytes = codec::encode(&frame, CONTROL_MESSAGE_BYTES_MAX).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name} = {hex}")
    };
    insta::assert_snapshot!(samples().into_iter().map(line).collect::<Vec<_>>().join("\n"));
}

#[test]
fn every_message_round_trips_within_its_bound() {
    for (name, frame) in samples() {
        let bytes = codec::encode(&frame, SAMPLE_BYTES_MAX).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(codec::decode(&bytes, SAMPLE_BYTES_MAX), Ok(frame), "{name}");
        let short = bytes.len() - 1;
        let refused = codec::decode::<Frame>(&bytes, short);
        assert_eq!(refused, Err(CodecError::TooLarge { len: bytes.len(), max: short }), "{name}");
        assert!(codec::decode::<Frame>(&bytes[..short], SAMPLE_BYTES_MAX).is_err(), "{name}, cut off");
    }
}

#[test]
fn a_frame_of_an_unknown_version_is_refused_with_what_to_upgrade() {
    for (name, frame) in samples() {
        let mut bytes = codec::encode(&frame, SAMPLE_BYTES_MAX).unwrap();
        for found in [codec::VERSION - 1, codec::VERSION + 1, u8::MAX] {
            bytes[0] = found;
            let error = codec::decode::<Frame>(&bytes, SAMPLE_BYTES_MAX).unwrap_err();
            assert_eq!(error, CodecError::Version { found }, "{name}");
            assert!(error.to_string().contains("upgrade the older of the two programs"), "{error}");
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

fn addresses() -> Vec<String> {
    vec!["/ip4/10.0.0.1/tcp/7440".into()]
}

fn hello(join: Option<JoinProof>, site: Option<Name>) -> Hello {
    let labels = vec![(name("role"), "web".into())];
    let (control, bulk) = (addresses(), addresses());
    Hello { version: "1.0.0".into(), join, name: name("n1"), site, labels, control, bulk }
}

fn blocks() -> Vec<BlockRange> {
    vec![BlockRange { start: BlockIndex(0), end: BlockIndex(300) }]
}

fn lacking() -> Vec<Lacking> {
    vec![Lacking { block: BlockIndex(1), bytes: 70_000 }]
}

fn held() -> Vec<HeldLease> {
    vec![HeldLease { lease: LEASE, blocks: blocks() }]
}

fn stats() -> AcquireStats {
    AcquireStats { wan_bytes: 1, peer_bytes: 300, local_bytes: 70_000, took_ms: 5_000_000_000 }
}

fn run(phase: Phase) -> StepRun {
    StepRun { deployment: DEPLOYMENT, step: StepRef { phase, index: StepIndex(3) }, attempt: 1 }
}

fn lease_ended(outcome: Outcome, fault: Option<FaultKind>) -> ToCoordinator {
    let fault = fault.map(|kind| Fault { kind, cause: "bad".into() });
    let end = LeaseEnd { content: CONTENT, lease: LEASE, read_bytes: 70_000, landed: blocks(), outcome, fault };
    ToCoordinator::LeaseEnded { end, begun: lacking() }
}

fn outputs() -> Outputs {
    [("version".to_owned(), "4.2".to_owned())].into()
}

fn step_ended(outcome: StepOutcome) -> ToCoordinator {
    ToCoordinator::StepEnded { run: run(Phase::Before), outcome }
}

fn output(stream: OutputStream) -> ToCoordinator {
    ToCoordinator::StepOutput { run: run(Phase::Before), stream, text: "hi".into() }
}

fn neighbour() -> Neighbour {
    Neighbour { node: NODE, control: addresses(), bulk: addresses() }
}

/// What a signed manifest is on the wire: two strings of bytes. The manifest inside has its own encoding.
fn signed() -> Signed {
    let parts = (vec![1_u8, 2, 3], vec![0x51_u8; 4]);
    codec::decode(&codec::encode(&parts, 100).expect("it is small"), 100).expect("it is small")
}

fn grant(origin: Origin) -> ToNode {
    ToNode::Grant(Grant {
        content: CONTENT,
        lease: LEASE,
        blocks: blocks(),
        origin,
        whole: false,
        terms: Terms::new(1 << 20, 4 << 20, true),
    })
}

fn http() -> HttpOrigin {
    HttpOrigin {
        url: "https://dl.example.com/web.zip".into(),
        headers: vec![("Authorization".into(), "x".into())],
        size: 70_000,
        etag: Some("\"a\"".into()),
        last_modified: None,
        ca_pem: None,
    }
}

fn block_set() -> BlockSet {
    let mut set = BlockSet::new(20);
    [0, 1, 9].iter().for_each(|block| assert!(set.insert(BlockIndex(*block))));
    set
}
