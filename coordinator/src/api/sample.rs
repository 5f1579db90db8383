//! Documents for tests: the deployment of PRODUCT.md's example, running, ended well and ended badly.

use shoal_proto::id::{DeploymentId, FileHash, Name, NodeId, PackageId, PlanHash, ValuesHash};
use shoal_proto::time::WallTime;

use super::types::*;

/// The wall clock's reading `seconds` after the examples start.
pub(crate) fn at(seconds: u64) -> Timestamp {
    WallTime(1_795_383_838_000 + seconds * 1000).into()
}

pub(crate) fn figures(site: &str, acquire_ms: u64) -> SiteFigures {
    let figures = SiteFigures {
        site: site.to_owned(),
        nodes: 4,
        package_bytes: 412_000_000,
        wanted_bytes: 4 * 412_000_000,
        wan_bytes: 51_500_000,
        copies: 0.0,
        peer_bytes: 154_500_000,
        local_bytes: 1_442_000_000,
        acquire_ms,
        bound_ms: Some(8_290),
        of_bound: None,
    };
    figures.with_ratios()
}

pub(crate) fn step(name: &str, state: StepState) -> StepStatus {
    let ended = matches!(state, StepState::Succeeded);
    StepStatus {
        name: name.to_owned(),
        phase: StepPhase::Steps,
        state,
        attempts: u32::from(!matches!(state, StepState::Pending | StepState::Skipped)),
        exit_code: ended.then_some(0),
        ignored: false,
        ordered: None,
        started: None,
        error: None,
        duration_ms: ended.then_some(1_200),
        outputs: std::collections::BTreeMap::new(),
        tail: Vec::new(),
    }
}

/// A step that wrote terminal escapes before it failed.
pub(crate) fn failed_step(name: &str) -> StepStatus {
    StepStatus {
        exit_code: Some(3),
        attempts: 3,
        error: Some("exit code 3".to_owned()),
        tail: vec!["Stopping acme-web".to_owned(), "\u{1b}[31macme-web: port 8080\tis in use\u{1b}[0m\u{7}".to_owned()],
        ..step(name, StepState::Failed)
    }
}

pub(crate) fn node(name: &str, site: &str, state: NodeState, restart: StepStatus) -> NodeStatus {
    let health = if state == NodeState::Succeeded { StepState::Succeeded } else { StepState::Pending };
    NodeStatus {
        name: name.to_owned(),
        site: site.to_owned(),
        wave: None,
        state,
        online: true,
        acquired: true,
        package_bytes: 412_000_000,
        have_bytes: 412_000_000,
        error: None,
        steps: vec![step("unpack", StepState::Succeeded), restart, step("health", health)],
    }
}

pub(crate) fn succeeded() -> Status {
    let sites = [("osl", 9_000), ("syd", 9_100)];
    let names = sites.iter().flat_map(|(site, _)| (1..=4).map(move |number| (format!("{site}-{number}"), *site)));
    let nodes =
        names.map(|(name, site)| node(&name, site, NodeState::Succeeded, step("restart", StepState::Succeeded)));
    Status {
        schema: StatusSchema::V1,
        id: DeploymentId(12),
        name: "storefront".to_owned(),
        release: "2026.11.3".to_owned(),
        takes_back: None,
        taken_back_by: Vec::new(),
        left_out: Vec::new(),
        state: DeploymentState::Succeeded,
        stage: Stage::Done,
        started: at(0),
        ended: Some(at(112)),
        duration_ms: 112_000,
        nodes_total: 8,
        steps_total: 3,
        gate: Gate { manual: false, quorum: "100%".to_owned(), wanted: 8, acquired: 8, open: true },
        at: None,
        expires: None,
        any_hour: false,
        shut: Vec::new(),
        waiting: Vec::new(),
        waves: Vec::new(),
        nodes: nodes.collect(),
        steps: Vec::new(),
        coordinator_steps: Vec::new(),
        sites: sites.map(|(site, acquire_ms)| ended_site(figures(site, acquire_ms))).into(),
        summary: None,
    }
}

fn ended_site(figures: SiteFigures) -> SiteStatus {
    let have_bytes = figures.wanted_bytes;
    SiteStatus { nodes_acquired: figures.nodes, have_bytes, missing_bytes: 0, wan_rate: 0, peer_rate: 0, figures }
}

/// In the middle of acquiring.
pub(crate) fn acquiring() -> Status {
    let mut status = succeeded();
    status.state = DeploymentState::Running;
    status.stage = Stage::Acquire;
    status.ended = None;
    status.duration_ms = 4_000;
    status.gate = Gate { open: false, acquired: 1, ..status.gate };
    status.waiting = vec!["syd-3 is offline: start `shoal-node` there, or `shoal exclude d12 --node syd-3`".to_owned()];
    for node in &mut status.nodes {
        (node.state, node.acquired) = (NodeState::Acquiring, false);
        node.have_bytes = 386_250_000;
        node.online = node.name != "syd-3";
        node.steps.iter_mut().for_each(|known| *known = step(&known.name, StepState::Pending));
    }
    (status.nodes[0].state, status.nodes[0].acquired) = (NodeState::Ready, true);
    status.nodes[0].have_bytes = status.nodes[0].package_bytes;
    for site in &mut status.sites {
        site.figures = SiteFigures { wan_bytes: 25_750_000, acquire_ms: 4_000, ..site.figures.clone() }.with_ratios();
        (site.missing_bytes, site.have_bytes) = (25_750_000, 1_545_000_000);
        (site.wan_rate, site.peer_rate, site.nodes_acquired) = (6_250_000, 18_700_000, 0);
    }
    status.sites[0].nodes_acquired = 1;
    status
}

/// A step failed on one node and waits for an answer.
pub(crate) fn paused() -> Status {
    let mut status = succeeded();
    status.state = DeploymentState::Paused;
    status.stage = Stage::Steps;
    status.ended = None;
    status.nodes[5] = node("syd-2", "syd", NodeState::NeedsAnswer, failed_step("restart"));
    status.waiting =
        vec!["`restart` failed on syd-2: answer with `shoal retry|ignore|exclude|fail d12 --node syd-2`".to_owned()];
    status
}

/// An operator let it fail after that.
pub(crate) fn failed() -> Status {
    let mut status = paused();
    status.state = DeploymentState::Failed;
    status.stage = Stage::Done;
    status.ended = Some(at(112));
    status.nodes[5].state = NodeState::Failed;
    status.waiting = vec!["`restart` failed on syd-2 and the operator answered `fail`".to_owned()];
    status
}

/// An operator let it go on without the node.
pub(crate) fn without_one() -> Status {
    let mut status = failed();
    status.state = DeploymentState::Succeeded;
    status.nodes[5].state = NodeState::Excluded;
    status.nodes[5].error = Some("excluded by an operator".to_owned());
    status.waiting = Vec::new();
    status
}

pub(crate) fn nodes() -> Nodes {
    let node = |name: &str, site: &str, online| Node {
        name: name.to_owned(),
        site: site.to_owned(),
        labels: [("role".to_owned(), "web".to_owned())].into(),
        online,
        id: "12D3KooWExample".to_owned(),
        addresses: vec!["/ip4/127.0.1.1/tcp/7442".to_owned()],
        version: Some("0.1.0".to_owned()),
        cache_bytes: Some(1_854_000_000),
        last_seen: Some(at(0)),
    };
    Nodes { schema: NodesSchema::V1, nodes: vec![node("osl-1", "osl", true), node("syd-10", "syd", false)] }
}

pub(crate) fn event(seq: u64, event: EventKind, message: &str) -> Event {
    Event {
        time: at(seq),
        event,
        deployment: DeploymentId(12),
        seq,
        site: None,
        node: None,
        step: None,
        attempt: None,
        exit_code: None,
        message: message.to_owned(),
    }
}

pub(crate) fn deployment(status: &Status) -> Deployment {
    Deployment {
        schema: DeploymentSchema::V1,
        id: status.id,
        name: status.name.clone(),
        release: status.release.clone(),
        state: status.state,
        stage: status.stage,
        nodes: status.nodes_total,
        started: status.started,
        ended: status.ended,
        at: status.at,
        expires: status.expires,
        unchanged: false,
    }
}

/// Sites with limits of every kind.
pub(crate) fn sites() -> Sites {
    let site = |name: &str, wan_limit, limited_by, limited_until| Site {
        name: name.to_owned(),
        nodes: 4,
        online: 4,
        wan_limit,
        limited_by,
        limited_until,
        base_limit: Some(6_250_000),
        wan_rate: 600_000,
        timezone: Some("Europe/Oslo".to_owned()),
        shut: None,
    };
    let until = Some(Timestamp::from(WallTime(1_795_383_838_000)));
    let free = Site { base_limit: None, wan_rate: 0, timezone: None, ..site("ams", None, LimitedBy::Base, None) };
    let sites = vec![
        free,
        site("bgo", Some(6_250_000), LimitedBy::Base, None),
        site("osl", Some(625_000), LimitedBy::Calendar, None),
        site("syd", Some(2_000_000), LimitedBy::Operator, until),
        site("trd", None, LimitedBy::Operator, None),
    ];
    Sites { schema: SitesSchema::V1, sites }
}

/// The plan of the same deployment, with a node away.
pub(crate) fn plan() -> Plan {
    let name = |text: &str| Name::new(text).unwrap();
    let site = |site: &str, wan_rate: Option<u64>, rate_from, known_nodes| PlannedSite {
        site: name(site),
        nodes: 2,
        known_nodes,
        package_bytes: 412_000_000,
        wanted_bytes: 824_000_000,
        local_bytes: 721_000_000,
        wan_bytes: 51_500_000,
        peer_bytes: 51_500_000,
        wan_rate,
        rate_from,
        estimate_ms: wan_rate.map(|rate| 51_500_000_000 / rate),
    };
    let node = |text: &str, site: &str, online| PlannedNode {
        name: name(text),
        site: name(site),
        id: NodeId([text.len() as u8; 32]),
        packages: [name("web")].into(),
        wave: Some(name(if text == "osl-1" { "canary" } else { "rest" })),
        online,
    };
    let wave = |text: &str, nodes, bake_ms| PlannedWave {
        name: name(text),
        nodes,
        groups: nodes,
        groups_at_a_time: 1,
        needed: 1,
        max_failures: nodes - 1,
        max_failures_per_site: (nodes > 1).then(|| "50%".to_owned()),
        bake_ms,
    };
    let step = |text: &str, phase, on: &str| PlannedStep { name: name(text), phase, on: on.to_owned() };
    Plan {
        schema: PlanSchema::V1,
        hash: PlanHash([1; 32]),
        file: "deploy.yaml".to_owned(),
        file_hash: FileHash([2; 32]),
        variables_hash: ValuesHash([4; 32]),
        name: name("storefront"),
        release: name("2026.11.3"),
        stage_only: false,
        packages: vec![PlannedPackage {
            name: name("web"),
            reference: "nuget-main Acme.Web 4.2.1".to_owned(),
            blake3: PackageId([3; 32]),
            size: 412_000_000,
        }],
        nodes: vec![node("osl-1", "osl", true), node("osl-2", "osl", true), node("syd-1", "syd", false)],
        sites: vec![site("osl", Some(6_250_000), Some(RateFrom::Limit), 2), site("syd", None, None, 1)],
        waves: vec![wave("canary", 1, 600_000), wave("rest", 2, 0)],
        steps: vec![step("vpn", StepPhase::BeforeAcquire, "site"), step("restart", StepPhase::Steps, "node")],
        gate: "opens when 100% of the nodes have their packages".to_owned(),
        estimate_ms: None,
        blockers: vec!["syd-1 is offline".to_owned()],
        as_wanted_since: None,
    }
}

/// How one of three nodes of a deployment goes back, another cannot yet, and the third stays.
pub(crate) fn way_back(of: DeploymentId) -> WayBack {
    let name = |text: &str| Name::new(text).unwrap();
    let node = |text: &str, online, holds| PlannedReturn { name: text.to_owned(), site: name("osl"), online, holds };
    let Plan { packages, mut sites, steps, .. } = plan();
    sites.truncate(1);
    sites[0] =
        PlannedSite { local_bytes: 824_000_000, wan_bytes: 0, peer_bytes: 0, estimate_ms: Some(0), ..sites[0].clone() };
    let way = PlannedWay {
        to: DeploymentId(11),
        release: name("2026.11.2"),
        packages,
        nodes: vec![node("osl-1", true, Some(true)), node("osl-2", false, None)],
        sites,
        steps,
    };
    let (stay, blockers) = (vec!["syd-1".to_owned()], vec!["osl-2 is offline".to_owned()]);
    WayBack { schema: WayBackSchema::V1, hash: PlanHash([5; 32]), of, ways: vec![way], stay, blockers }
}

/// Where the sample log ends.
pub(crate) const HEAD: &str = "41:9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f";

/// What operators did.
pub(crate) fn audit_entries() -> Vec<AuditEntry> {
    let act = |seconds, command: &str, what: &str| Act {
        time: at(seconds),
        who: "ola@laptop".to_owned(),
        command: command.to_owned(),
        what: what.to_owned(),
        ..Act::default()
    };
    let deploy = Act {
        deployment: Some("d12".to_owned()),
        plan: Some("01".repeat(32)),
        reason: Some("CHG-4711".to_owned()),
        ..act(60, "deploy", "storefront 2026.11.3 from deploy.yaml")
    };
    let release = Act { refused: Some("the gate is open already".to_owned()), ..act(70, "release", "d12") };
    [(7, act(0, "token create", "site syd")), (38, deploy), (41, release)]
        .map(|(entry, act)| AuditEntry { entry, act })
        .to_vec()
}

/// A log that is whole, or of which an entry was changed.
pub(crate) fn verdict(broken: bool) -> AuditVerdict {
    let cause = "its bytes were changed, or are not all there".to_owned();
    let broken = broken.then_some(AuditBreak { entry: 42, offset: 9000, cause });
    AuditVerdict { schema: VerdictSchema::V1, entries: 41, head: HEAD.to_owned(), broken }
}

/// A feed of which one place is well, one could be better and one does not work; without a package, one that answers.
pub(crate) fn feed_test(feed: &Name, request: &FeedTestRequest) -> FeedTest {
    let place = |url: &str, site: Option<&str>, validator: Option<&str>, advice: &str| FeedTestPlace {
        url: url.to_owned(),
        sites: site.map(str::to_owned).into_iter().collect(),
        works: true,
        ranges: Some(validator.is_some()),
        validator: validator.map(str::to_owned),
        latency_ms: Some(31),
        rate: Some(11_500_000),
        advice: advice.to_owned(),
    };
    let main = place("http://main/web.nupkg", None, Some("\"5e-1\""), "nothing is wrong with it");
    let test = FeedTest {
        schema: FeedTestSchema::V1,
        feed: feed.to_string(),
        package: None,
        bytes: None,
        digests: Vec::new(),
        auth: "password".to_owned(),
        works: true,
        places: vec![FeedTestPlace { ranges: None, validator: None, rate: None, ..main.clone() }],
    };
    let Some(id) = &request.id else { return test };
    let bad = "nodes cannot read here: http://osl/web.nupkg answered 401: check the feed's user name and password file";
    let bad = place("http://osl/web.nupkg", Some("osl"), None, bad);
    FeedTest {
        package: Some(format!("{feed} {id} 4.2.1")),
        bytes: Some(65_300_000),
        digests: vec!["sha512:ab12".to_owned()],
        works: false,
        places: vec![
            main,
            place("http://syd/web.nupkg", Some("syd*"), None, "it ignores ranges"),
            FeedTestPlace { works: false, ranges: None, latency_ms: None, rate: None, ..bad },
        ],
        ..test
    }
}
