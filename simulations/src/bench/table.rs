//! The cases of TARGETS.md's table.

use super::Case;

/// A case with its name and the figures to reach.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is shown before the figures.
    pub name: String,
    /// The case.
    pub case: Case,
    /// The most that completion may take, in bounds; of the last node that counts, or of 99 % of them.
    pub ratio_max: f64,
    /// The most WAN copies.
    pub copies_max: f64,
    /// The part of the nodes whose completion `ratio_max` is about.
    pub part: f64,
}

/// Every row.
pub fn rows() -> Vec<Row> {
    let package: u32 = 256 * 1024 * 1024;
    let sized = |blocks: u32| Case { blocks, block_bytes: package / blocks, ..Case::DEFAULT };
    let row =
        |name: &str, case, ratio_max, copies_max| Row { name: name.to_owned(), case, ratio_max, copies_max, part: 1.0 };
    let mut rows = Vec::new();
    for (blocks, most) in [(256, [1.01, 1.05, 1.05]), (1024, [1.005, 1.02, 1.02])] {
        for ((wan, shown), ratio_max) in [(0.25, "1/4"), (1.0, "1"), (4.0, "4")].into_iter().zip(most) {
            let name = format!("200 nodes, {blocks} blocks, WAN {shown}");
            rows.push(row(&name, Case { wan, ..sized(blocks) }, ratio_max, 1.001));
        }
    }
    // A lost holder's time of grace is 10 s: a package of a minute and more tells it from the rest.
    let killed = Case { churn: 0.2, block_bytes: 4 * 1024 * 1024, lan: 6.25e6, ..Case::DEFAULT };
    rows.push(row("200 nodes, 256 blocks, WAN 1, 20 % killed", killed, 1.06, 1.01));
    let slow = Case { slow: 0.05, quorum: 0.95, ..Case::DEFAULT };
    rows.push(row("200 nodes, 256 blocks, WAN 1, 5 % at a tenth", slow, 1.06, 1.001));
    let mesh = Case { nodes: 24, ..Case::DEFAULT };
    rows.push(row("24 nodes (full mesh), 256 blocks, WAN 1", mesh, 1.05, 1.001));
    let large = Case { nodes: 2600, blocks: 1024, block_bytes: 3_000_000, lan: 300e6, wan: 1.0, ..Case::DEFAULT };
    rows.push(Row { part: 0.99, ..row("2,600 nodes, 3 GB at 300 MB/s, 99 %", large, 1.10, 1.001) });
    rows
}
