//! Every bound of the system, each with its reason (BOUNDED).

use std::time::Duration;

/// Letters in a name. Names become file names and log fields; file systems stop at 255 bytes.
pub const NAME_LEN_MAX: usize = 128;

/// Bytes of one control message. The largest are manifests and inventories: 1,000 nodes and 30,000 blocks fit tenfold.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that wait to be sent to one control peer; a peer that is this far behind is cut off and resyncs when it is back.
pub const CONTROL_QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Frames that wait to be sent to one control peer, for the same reason: small frames cost more memory than their bytes.
pub const CONTROL_QUEUE_FRAMES_MAX: usize = 4096;

/// Bytes of received control frames that the driver has not dropped yet, over all peers; at the limit, peers wait.
pub const CONTROL_RECEIVED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A control channel on which nothing was sent for this long carries an empty frame.
pub const CONTROL_HEARTBEAT: Duration = Duration::from_secs(4);

/// A control channel on which nothing arrived for this long is dead: three heartbeats, so that one may be late.
pub const CONTROL_SILENCE_MAX: Duration = Duration::from_secs(12);

/// How long a connection may take from the first packet to an open channel, on slow links and busy machines.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits between attempts to reach a peer: from this, so that a restart is bridged at once ...
pub const REDIAL_WAIT_MIN: Duration = Duration::from_millis(200);

/// ... doubling up to this, so that 1,000 nodes whose coordinator is down cost it at most 100 attempts a second.
pub const REDIAL_WAIT_MAX: Duration = Duration::from_secs(10);

/// Addresses of one peer: interfaces times transports, with room to spare.
pub const ADDRESSES_PER_NODE_MAX: usize = 16;

/// Connections that may be in their handshake at once, so that strangers cannot fill memory before they are known.
pub const HANDSHAKES_MAX: usize = 512;

/// Inbound control connections of one node: the old one, its replacement, and one that is being closed.
pub const CONTROL_CONNECTIONS_PER_NODE_MAX: usize = 3;

/// Inbound bulk connections of one node: one or two that are busy, as many that are being closed.
pub const BULK_CONNECTIONS_PER_NODE_MAX: usize = 4;

/// Bytes of one request on the bulk mesh.
pub const BLOCK_REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Runs of segments in one request: at most 10 bytes each, so that they fit.
pub const RUNS_PER_REQUEST_MAX: usize = 4096;

/// Requests that a node has open on one bulk stream: enough to hide the round trip at 1 MiB each, few enough to re-ask.
pub const REQUESTS_PER_STREAM_MAX: usize = 64;

/// Bytes of the header before an answer's payload.
pub const ANSWER_HEADER_BYTES_MAX: usize = 64;

/// Bytes of one answer's payload: the largest block and its last segment, or a recipe's piece, with room for zstd's frame.
pub const ANSWER_PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A bulk transfer that moved no byte for this long is given up; the blocks are asked of another.
pub const BULK_STALL_MAX: Duration = Duration::from_secs(20);

/// A bulk stream on which nobody asks anything for this long is closed by the node that serves it.
pub const BULK_IDLE_MAX: Duration = Duration::from_secs(60);

/// Bytes of one signed manifest, so that it fits in a control message with room to spare.
pub const MANIFEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of one journal record: a manifest and its spec, with room to spare.
pub const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;

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

/// Nodes of a site that all trade with each other; in larger sites connections would grow with the square.
pub const FULL_MESH_NODES_MAX: usize = 24;

/// Rings that a larger site is connected by; each gives a node two neighbours, 16 in all.
pub const NEIGHBOUR_RINGS: u8 = 8;

/// Reads of one content that may bring wrong bytes before the deployment stops: the first may be an accident on the way.
pub const WRONG_READS_MAX: u32 = 3;

/// Blocks that a stuck node names: enough to look into, and more would change nothing.
pub const STUCK_BLOCKS_MAX: usize = 64;
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

/// Bytes of a join string's value: a key, a secret and a dozen addresses.
pub const JOIN_BYTES_MAX: usize = 4096;
