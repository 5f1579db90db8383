//! What a site may read again, over restarts of the coordinator and by an operator's word (WAN-ONCE, ACKED-IS-KEPT).

use std::time::Duration;

use shoal_proto::coordinator::{AllowReading, OperateError};
use shoal_proto::id::{DeploymentId, PackageIndex};
use shoal_proto::limits::{HOLDER_GRACE, RETURN_MAX, WAN_BUDGET_BYTES_MIN};
use shoal_proto::rollout::Operator;

use crate::plan::{A, B, MIB, deployment, name, package};
use crate::site::Site;

#[test]
fn what_was_spent_is_spent_after_a_restart() {
    let web = package("web", 400);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A, B]));
    for _ in 0..2 {
        // What B read, and was the only one to have, is lost with it.
        site.read(B, 1);
        site.read_part(B, MIB / 2);
        site.pass(Duration::from_millis(300));
        site.crash(B);
        site.pass(HOLDER_GRACE + Duration::from_secs(1));
        site.all_read(1);
        site.pass(Duration::from_secs(1));
        site.start(B);
        site.connect(B);
        site.pass(Duration::from_secs(1));
    }
    let before = site.live(1);
    assert!(before.budget_used_bytes > 0, "{before:?}");
    site.crash_coordinator();
    site.start_coordinator();
    site.connect(A);
    site.connect(B);
    site.pass(Duration::from_secs(1));
    let after = site.live(1);
    assert!(after.budget_used_bytes >= before.budget_used_bytes, "{before:?} {after:?}");
    assert_eq!(after.budget_bytes, before.budget_bytes, "and 1 % is of all that was lacking at first");
    site.finish();
}

#[test]
fn what_came_and_is_gone_is_read_again_from_the_budget_also_after_a_restart() {
    let web = package("web", 400);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A, B]));
    site.crash(A);
    assert_eq!(site.read(B, 1), 1);
    site.pass(Duration::from_millis(300));
    site.crash(B);
    site.crash_coordinator();
    site.start_coordinator();
    site.start(A);
    site.connect(A);
    site.pass(RETURN_MAX + Duration::from_secs(1));
    while site.read(A, 64) > 0 {
        site.pass(Duration::from_millis(300));
    }
    let after = site.live(1);
    assert_eq!(after.missing_bytes, 0, "{after:?}");
    assert_eq!(after.budget_used_bytes, u64::from(MIB), "what B had alone: {after:?}");
}

#[test]
fn what_an_operator_allowed_outlives_the_coordinator() {
    let web = package("web", 40);
    let mut site = Site::new(2);
    site.create(&deployment(1, &[&web], &[A, B]));
    let before = site.live(1).budget_bytes;
    site.allow_reading(&web, 5_000_000);
    site.allow_reading(&web, 2_000_000);
    assert_eq!(site.live(1).budget_bytes, before + 7_000_000);
    for _ in 0..2 {
        site.crash_coordinator();
        site.start_coordinator();
        site.connect(A);
        site.connect(B);
        site.pass(Duration::from_secs(1));
        assert_eq!(site.live(1).budget_bytes, before.max(WAN_BUDGET_BYTES_MIN) + 7_000_000);
    }
    site.finish();
}

#[test]
fn an_operator_is_told_what_cannot_be_allowed() {
    let web = package("web", 4);
    let mut site = Site::new(1);
    site.create(&deployment(1, &[&web], &[A]));
    let now = site.at();
    let mut allow = |id, of: &str, package| {
        let core = site.coordinator.as_mut().unwrap();
        core.allow_reading(DeploymentId(id), &AllowReading { site: name(of), package, bytes: 1 }, now)
    };
    assert_eq!(allow(7, "syd", None), Err(OperateError::NoDeployment(DeploymentId(7))));
    assert_eq!(allow(1, "osl", None), Err(OperateError::NoSite(DeploymentId(1), name("osl"))));
    assert_eq!(allow(1, "syd", None), Err(OperateError::NothingWaits(DeploymentId(1), name("syd"))));
    assert_eq!(allow(1, "syd", Some(PackageIndex(3))), Err(OperateError::NothingWaits(DeploymentId(1), name("syd"))));
    assert_eq!(allow(1, "syd", Some(PackageIndex(0))).map(|budgets| budgets.len()), Ok(1), "ahead of need");
    site.operate(1, Operator::Cancel);
    site.pass(Duration::from_secs(5));
    let core = site.coordinator.as_mut().unwrap();
    let late = core.allow_reading(
        DeploymentId(1),
        &AllowReading { site: name("syd"), package: Some(PackageIndex(0)), bytes: 1 },
        now,
    );
    assert_eq!(late, Err(OperateError::Over(DeploymentId(1))));
}
