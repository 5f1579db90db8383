//! When a deployment may start, from what its file and its operator say.

use shoal_proto::limits::AT_MAX;
use shoal_proto::rollout::spec::DeploymentSpec;
use shoal_proto::rollout::view::View;
use shoal_proto::rollout::when::When;
use shoal_proto::time::WallTime;

use super::Server;
use crate::api::types::DeployRequest;
use crate::api::{ApiError, ErrorCode};
use crate::moment;

impl Server {
    /// The times of `spec` or, in their place, of `request`. One that only stages has none, since it begins no step.
    pub(super) fn when(&self, request: &DeployRequest, spec: &DeploymentSpec) -> Result<When, ApiError> {
        if request.stage_only {
            return Ok(When::default());
        }
        let (now, zone) = (self.now().wall, &self.config.timezone);
        let given = |flag: &Option<String>, key: &Option<String>| flag.clone().or_else(|| key.clone());
        let at = given(&request.at, &spec.at).map(|text| moment::parse(&text, zone, now));
        let at = at.transpose().and_then(|at| check("at", at, now)).map_err(|problem| wrong(request, &problem))?;
        let from = at.unwrap_or(now);
        let expires = given(&request.expires, &spec.expires);
        let expires = expires.map(|text| moment::parse_or_after(&text, zone, now, from)).transpose();
        let expires = expires.and_then(|at| check("expires", at, now)).map_err(|problem| wrong(request, &problem))?;
        if expires.is_some_and(|expires| expires <= from) {
            return Err(wrong(request, "`expires` is not after `at`: its steps would never begin"));
        }
        Ok(When { at, expires, any_hour: request.override_window.is_some() })
    }

    /// When its steps may start, in words that follow one of the gate.
    pub(super) fn describe_when(&self, when: When) -> String {
        let shown = |at| moment::show(at, &self.config.timezone);
        let at = when.at.map_or_else(String::new, |at| format!(", not before {}", shown(at)));
        let expires = when.expires.map_or_else(String::new, |at| format!(", and not at all after {}", shown(at)));
        at + &expires
    }

    /// Until when a gate waits for its time.
    pub(super) fn not_before(&self, at: WallTime, view: &View) -> String {
        let expires =
            view.when.expires.map(|at| format!("; it expires at {}", moment::show(at, &self.config.timezone)));
        let (at, id) = (moment::show(at, &self.config.timezone), view.deployment);
        format!("the gate waits until {at}, or for `shoal release {id} --now`{}", expires.unwrap_or_default())
    }
}

fn wrong(request: &DeployRequest, problem: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, format!("{}: {problem}", request.file))
}

fn check(key: &str, at: Option<WallTime>, now: WallTime) -> Result<Option<WallTime>, String> {
    match at {
        Some(at) if at <= now => Err(format!("`{key}` is over: give a later time, or leave it out")),
        Some(at) if at > now + AT_MAX => {
            Err(format!("`{key}` is more than a year away: is that the year that is meant?"))
        }
        _ => Ok(at),
    }
}
