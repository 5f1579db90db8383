//! What the relays counted, and whether it is what had to cross: each missing byte once.

use std::fmt::Write;

use super::mesh::SiteCrossed;
use crate::cli::exit::{CliError, Exit};
use crate::cli::units::bytes;

/// Headers of requests and answers, for packages so small that they are more than a hundredth of it.
const HEADER_BYTES: u64 = 16 * 1024;

/// What crossed each site's WAN after `before` was counted.
pub fn since(before: &[SiteCrossed], after: &[SiteCrossed]) -> Vec<SiteCrossed> {
    let pairs = before.iter().zip(after);
    pairs
        .map(|(before, after)| SiteCrossed {
            site: after.site.clone(),
            feed: after.feed.saturating_sub(before.feed),
            coordinator: after.coordinator.saturating_sub(before.coordinator),
        })
        .collect()
}

/// One line for each site.
pub fn render(counted: &[SiteCrossed], missing: u64) -> String {
    let width = counted.iter().map(|site| site.site.len()).max().unwrap_or(0);
    let mut text = String::new();
    for SiteCrossed { site, feed, coordinator } in counted {
        let (from_feed, wanted, rest) = (bytes(*feed), bytes(missing), bytes(*coordinator));
        let ratio = *feed as f64 / missing.max(1) as f64;
        let _ = writeln!(
            text,
            "  {site:width$}  its relay counted {from_feed} from the feed for {wanted} missing ({ratio:.4}), \
             {rest} from the coordinator"
        );
    }
    text
}

/// Whether each site read each missing byte once: all that came from the feed, HTTP included, is at most 1.01 times what
/// was missing.
///
/// # Errors
/// Names the sites that read more.
pub fn judge(version: &str, counted: &[SiteCrossed], missing: u64) -> Result<(), CliError> {
    let most = missing + (missing / 100).max(HEADER_BYTES);
    let too_much = counted.iter().filter(|site| site.feed > most);
    let named: Vec<_> = too_much.map(|site| format!("{} read {}", site.site, bytes(site.feed))).collect();
    if named.is_empty() {
        return Ok(());
    }
    let message = format!("of version {version}, {} from the feed for {} missing", named.join(", "), bytes(missing));
    Err(CliError::new(Exit::Unexpected, message).next("at most 1.01 times what is missing may cross a WAN"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crossed(site: &str, feed: u64) -> SiteCrossed {
        SiteCrossed { site: site.to_owned(), feed, coordinator: 1_000 }
    }

    #[test]
    fn a_site_that_reads_too_much_is_named() {
        let limit = 64_000_000 + 640_000;
        assert_eq!(judge("1.0", &[crossed("syd", limit), crossed("osl", 64_000_000)], 64_000_000), Ok(()));
        let error = judge("1.0", &[crossed("syd", 64_000_000), crossed("osl", limit + 1)], 64_000_000).unwrap_err();
        assert_eq!(error.exit, Exit::Unexpected);
        assert_eq!(error.message, "of version 1.0, osl read 64.6 MB from the feed for 64.0 MB missing");
        assert!(judge("1.0", &[crossed("syd", 2 * HEADER_BYTES)], 10).is_err());
    }

    #[test]
    fn only_what_crossed_since_counts() {
        let counted = since(&[crossed("syd", 10), crossed("osl", 0)], &[crossed("syd", 64_100_010), crossed("osl", 5)]);
        assert_eq!((counted[0].feed, counted[0].coordinator, counted[1].feed), (64_100_000, 0, 5));
        let text = render(&counted[..1], 64_000_000);
        assert_eq!(
            text,
            "  syd  its relay counted 64.1 MB from the feed for 64.0 MB missing (1.0016), 0 B from the coordinator\n"
        );
    }
}
