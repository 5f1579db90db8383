//! Every bound of the system, each with its reason (BOUNDED).

use std::time::Duration;

/// Letters in a name. Names become file names and log fields; file systems stop at 255 bytes.
pub const NAME_LEN_MAX: usize = 128;

/// Bytes of one control message. The largest are manifests and inventories: 1,000 nodes and 30,000 blocks fit tenfold.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of one signed manifest, so that it fits in a control message with room to spare.
pub const MANIFEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of one journal record: a manifest and its spec, with room to spare.
pub const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of the coordinator's audit log: thousands of deployments to a thousand nodes, and a file that is still read in
/// a minute at start.
pub const AUDIT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// Values beside the records that a journal keeps, such as counters: they are few, and all in memory.
pub const JOURNAL_VALUES_MAX: usize = 256;

/// Bytes of such a value with its key.
pub const JOURNAL_VALUE_BYTES_MAX: usize = 64 * 1024;

/// Memory in which sled keeps what it read, in bytes: the journal is read once, at start.
pub const JOURNAL_CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes of a configuration or deployment file: far more than a person writes.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Feeds of one coordinator, and mirrors of one feed.
pub const FEEDS_MAX: usize = 256;

/// Bytes of a feed's index document: nuget.org's longest list of versions has half a megabyte.
pub const FEED_DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of a password file: the longest tokens in use have a few thousand.
pub const PASSWORD_BYTES_MAX: u64 = 16 * 1024;

/// Bytes of a package's id, version or path in a feed: file systems stop at 4096 for a path.
pub const REFERENCE_BYTES_MAX: usize = 4096;

/// Versions or files that an error lists.
pub const SUGGESTIONS_MAX: usize = 5;

/// Entries of the coordinator's catalog of recipes; the oldest goes when one more comes.
pub const CATALOG_ENTRIES_MAX: usize = 4096;

/// Compressed pieces of recipes that are kept in memory, in bytes: the recipes of a few deployments to many sites.
pub const RECIPE_CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of a recipe's plain form in memory: about 1.5 million segments with their hashes, a package of 100 GiB.
pub const RECIPE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Segments of one recipe, with the same reason.
pub const RECIPE_SEGMENTS_MAX: usize = 2_000_000;

/// Bytes of one package. Cut as coarsely as allowed, its recipe still fits in [`RECIPE_BYTES_MAX`].
pub const PACKAGE_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;

/// Smallest block in bytes: below it, requests cost more than payload.
pub const BLOCK_BYTES_MIN: u64 = 128 * 1024;

/// Largest target size of a block in bytes: a slow neighbour still finishes one within seconds. A block ends with the
/// segment that reaches the target, so that one is at most this plus one segment.
pub const BLOCK_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Blocks that a package is cut into if the two bounds above allow: a swarm of 1,000 nodes then stays within 1 % of the
/// optimum, since overhead is log2(nodes) / blocks.
pub const BLOCKS_PER_PACKAGE: u64 = 1024;

/// Blocks of one content: the largest package in blocks of the largest target size.
pub const BLOCKS_MAX: u32 = (PACKAGE_BYTES_MAX / BLOCK_BYTES_MAX) as u32;

/// Largest segment in bytes: the most that is read before it can be verified.
pub const SEGMENT_BYTES_MAX: usize = 256 * 1024;

/// FastCDC's average segment in bytes.
pub const SEGMENT_BYTES_AVG: usize = 64 * 1024;

/// FastCDC's smallest segment in bytes (but for the last of a run).
pub const SEGMENT_BYTES_MIN: usize = 16 * 1024;

/// Data of a zip entry up to this many bytes is one segment; longer data is cut by FastCDC.
pub const ZIP_ENTRY_WHOLE_BYTES_MAX: u64 = 128 * 1024;

/// Entries of a zip that is cut along its entries, so that their headers fit in a recipe; one with more is cut as plain
/// bytes.
pub const ZIP_ENTRIES_MAX: usize = 200_000;

/// Data of a zip entry below this many bytes stands in the recipe itself: its hash would cost about as much.
pub const ZIP_ENTRY_DATA_BYTES_MIN: u64 = 64;

/// Bytes between two zip entries that stand in the recipe itself; a longer run (a self-extractor, a signing block) is
/// cut into segments.
pub const ZIP_GAP_BYTES_MAX: u64 = 64 * 1024;

/// Bytes between two missing ranges that are read rather than skipped: a request costs about as much.
pub const GAP_BYTES_MAX: u64 = 4 * 1024;

/// Bytes of all such gaps together, in percent of the missing bytes: what reading ahead may cost on a WAN.
pub const GAP_PERCENT_MAX: u64 = 5;

/// Bytes of a URL. Pre-signed ones with session tokens have 2 to 4 KiB; servers stop at 8.
pub const URL_BYTES_MAX: usize = 8 * 1024;

/// Headers of a request to an origin: authorization and a few that a proxy wants.
pub const ORIGIN_HEADERS_MAX: usize = 16;

/// Bytes of an origin's headers and validators: most servers refuse more than 8 KiB.
pub const ORIGIN_HEADERS_BYTES_MAX: usize = 8 * 1024;

/// Range requests in flight for one lease: hides the round trip, without being a burden on the feed.
pub const ORIGIN_REQUESTS_IN_FLIGHT_MAX: usize = 4;

/// Redirects of one request: a feed, its download host, a signed URL, with room to spare.
pub const ORIGIN_REDIRECTS_MAX: usize = 5;

/// Tries in a row that bring no progress, before an origin has failed and another node or mirror is better.
pub const ORIGIN_TRIES_MAX: u32 = 5;

/// Bytes that count as progress between two tries, so that an origin that sends a byte per answer comes to an end.
pub const ORIGIN_PROGRESS_BYTES: u64 = 64 * 1024;

/// How long an origin may send nothing, neither an answer nor the next byte of one. A total time would fail slow links.
pub const ORIGIN_STALL: Duration = Duration::from_secs(20);

/// The longest `Retry-After` that is waited for; a lease is better granted again later than held that long.
pub const ORIGIN_RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Packages in one deployment.
pub const PACKAGES_PER_DEPLOYMENT_MAX: usize = 256;

/// Steps in one deployment.
pub const STEPS_MAX: usize = 256;

/// Nodes of one coordinator.
pub const NODES_MAX: usize = 20_000;

/// Labels of one node.
pub const LABELS_MAX: usize = 64;

/// Bytes of a script in a deployment file.
pub const SCRIPT_BYTES_MAX: usize = 64 * 1024;

/// Bytes of one chunk of a step's output.
pub const OUTPUT_CHUNK_BYTES_MAX: usize = 16 * 1024;

/// Bytes of output kept per step and node; the rest is cut with a notice, so that a chatty script fills no disk.
pub const OUTPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Values that one step hands to later steps by `$SHOAL_OUTPUT`; they travel in a report.
pub const STEP_VALUES_MAX: usize = 64;

/// Bytes of the file `$SHOAL_OUTPUT`, with the same reason.
pub const STEP_VALUES_BYTES_MAX: u64 = 16 * 1024;

/// Entries of an archive that is unpacked: more than any known package has, less than what fills a file system's inodes.
pub const UNPACK_ENTRIES_MAX: u64 = 2_000_000;

/// Bytes that any archive may unpack to, whatever its size.
pub const UNPACK_BYTES_FLOOR: u64 = 1024 * 1024 * 1024;

/// Beyond the floor, bytes that an archive may unpack to per byte of its own: real packages stay below 30, bombs reach
/// thousands.
pub const UNPACK_BYTES_PER_BYTE_MAX: u64 = 200;

/// Attempts at one step on one node.
pub const ATTEMPTS_MAX: u32 = 100;

/// How long a step may run unless the deployment file says otherwise.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How often a step that says `idempotent: true` is run again by itself after an outcome that nobody saw, if its
/// `retries` do not say more: a script that takes its node down must not do so for ever.
pub const UNKNOWN_RERUNS_MAX: u32 = 3;

/// How long a deployment that is ending waits for a node that is not connected: longer than nodes take to come back
/// after a restart of the coordinator.
pub const ABANDON_AFTER: Duration = Duration::from_secs(60);

/// Bytes of a cause that is recorded and shown; the rest is cut.
pub const CAUSE_BYTES_MAX: usize = 1024;

/// Releases that an `unpack` step keeps, at most: each is a full copy on the node's disk.
pub const KEEP_MAX: u32 = 100;

/// Longest time-out in a deployment file: a week is longer than any step that somebody waits for.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Target entries in a deployment file.
pub const TARGETS_MAX: usize = 256;

/// Bytes of a selector: a page of text, more than a person writes.
pub const SELECTOR_BYTES_MAX: usize = 4096;

/// Nesting of parentheses and `not` in a selector, so that parsing one needs little stack.
pub const SELECTOR_DEPTH_MAX: usize = 32;
