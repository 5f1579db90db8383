//! The oracle: max-min fair rates from scratch by progressive filling (Bertsekas and Gallager, "Data Networks", 6.5).
//!
//! All rates grow together; when a link is full, the flows over it have their rates. Slow and plain.

use super::topology::{Link, Route};

/// The rate of each flow, in bytes a second.
pub(crate) fn rates(links: &[Link], flows: &[Route]) -> Vec<f64> {
    let mut rates = vec![None; flows.len()];
    let mut left: Vec<f64> = links.iter().map(|link| link.capacity).collect();
    let mut open = vec![0u32; links.len()];
    flows.iter().flat_map(Route::links).for_each(|link| open[link.0 as usize] += 1);
    let level = |left: &[f64], open: &[u32], link: usize| left[link] / f64::from(open[link]);
    while let Some(full) = (0..links.len())
        .filter(|link| open[*link] > 0)
        .min_by(|a, b| level(&left, &open, *a).total_cmp(&level(&left, &open, *b)))
    {
        let rate = level(&left, &open, full);
        for (flow, route) in flows.iter().enumerate() {
            let over = |link: usize| route.links().iter().any(|over| over.0 as usize == link);
            if rates[flow].is_none() && over(full) {
                rates[flow] = Some(rate);
                for link in route.links() {
                    left[link.0 as usize] = (left[link.0 as usize] - rate).max(0.0);
                    open[link.0 as usize] -= 1;
                }
            }
        }
    }
    rates.into_iter().map(|rate| rate.unwrap_or(0.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::topology::LinkId;
    use super::*;

    #[test]
    fn what_a_thin_link_holds_back_goes_to_others() {
        let links = [1.0, 0.25, 1.0].map(|capacity| Link { capacity, trunk: false });
        let route = |links: &[u32]| Route::new(&links.iter().copied().map(LinkId).collect::<Vec<_>>());
        let flows = [route(&[0, 1]), route(&[0]), route(&[0, 2]), route(&[2])];
        assert_eq!(rates(&links, &flows), [0.25, 0.375, 0.375, 0.625]);
    }
}
