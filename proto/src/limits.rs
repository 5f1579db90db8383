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

/// A control channel on which the dialer sent or heard nothing for this long carries an empty frame, which is answered.
pub const CONTROL_HEARTBEAT: Duration = Duration::from_secs(4);

/// A control channel on which nothing arrived for this long is dead: three heartbeats, so that one may be late.
pub const CONTROL_SILENCE_MAX: Duration = Duration::from_secs(12);

/// A control channel that carried no frame for this long is unused: longer than the pauses of a deployment that goes on.
pub const CONTROL_UNUSED_AFTER: Duration = Duration::from_secs(60);

/// An unused control channel beats so many times less often, and may be silent for so many times as long: 12 s and 36 s, at
/// which a coordinator spends less than 1 % of a core on 1,000 nodes at rest.
pub const CONTROL_UNUSED_BEATS_DIVISOR: u32 = 3;

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

/// Files that a process has open beside its connections to nodes: packages, recipes, logs, pipes of steps, connections to
/// feeds and of operators.
pub const FILES_BESIDE_CONNECTIONS: u64 = 256;

/// Connections with one node at the same time: the control channel, the one that takes its place, and a bulk connection each
/// way.
pub const CONNECTIONS_PER_NODE: u64 = 4;

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

/// Buffers, each somewhat larger than a segment, that a process keeps while nobody uses them: two for each of 8 uploads and 8 fetchers.
pub const SPARE_BUFFERS_MAX: usize = 32;

/// A bulk transfer that moved no byte for this long is given up; the blocks are asked of another.
pub const BULK_STALL_MAX: Duration = Duration::from_secs(20);

/// A bulk stream on which nobody asks anything for this long is closed by the node that serves it.
pub const BULK_IDLE_MAX: Duration = Duration::from_secs(60);

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

/// Pages of a feed's list of versions: 100 versions a page are usual, and no package has more than a few thousand.
pub const FEED_PAGES_MAX: usize = 100;

/// Tokens that feeds lent, kept in memory: one for each repository that is read in an hour.
pub const FEED_TOKENS_MAX: usize = 1024;

/// How long a service is waited for that lends keys to a machine's role. Metadata services answer in milliseconds, or never where
/// there are none.
pub const MACHINE_ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Bytes of what such a service answers: tokens have some kilobytes.
pub const MACHINE_ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Bytes that trying a feed reads of a package at each place: enough to tell a rate.
pub const FEED_TRIAL_BYTES: u64 = 4 * 1024 * 1024;

/// How long a place of a feed that is tried may take to answer, repetitions included: an operator waits for it.
pub const FEED_TRIAL_ANSWER_WAIT: Duration = Duration::from_secs(30);

/// How long is read there: a slow place is an answer too.
pub const FEED_TRIAL_READ_WAIT: Duration = Duration::from_secs(10);

/// How long a site leaves a mirror alone after its first failure: about what a restart of a server takes.
pub const MIRROR_REST_MIN: Duration = Duration::from_secs(10);

/// The longest that a site leaves a mirror alone, so that it is found good again soon after it was repaired.
pub const MIRROR_REST_MAX: Duration = Duration::from_secs(300);

/// Failures of mirrors that are remembered: some for each site; the oldest is forgotten.
pub const MIRRORS_RESTING_MAX: usize = 4096;

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

/// Bytes of one such entry: its largest part is the outline, 32 bytes per 256 KiB of the recipe.
pub const CATALOG_ENTRY_BYTES_MAX: usize = 64 * 1024;

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

/// Bytes of an origin's own certificates: a private authority with its intermediates has a few thousand.
pub const CA_PEM_BYTES_MAX: usize = 32 * 1024;

/// Private authorities of which a process keeps connections: each has a client of its own.
pub const CA_CLIENTS_MAX: usize = 16;

/// Requests in flight from one process to one host, for all packages together: what servers allow a browser, and more
/// connections over one line are not faster.
pub const ORIGIN_REQUESTS_PER_HOST_MAX: usize = 8;

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

/// How long a read waits for another signature or token in place of one that was refused: longer than a coordinator waits for a
/// feed that lends them.
pub const ORIGIN_RENEWAL_WAIT: Duration = Duration::from_secs(10);

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

/// Bytes that steps on sites and the coordinator hand on to steps on nodes, in one deployment: they go with each order to
/// run a step, to up to a thousand nodes.
pub const SHARED_OUTPUTS_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of what steps on nodes wrote for later ones there that the coordinator keeps of one deployment, for people to look
/// at: twenty short values of each of a thousand nodes.
pub const OUTPUTS_KEPT_BYTES_MAX: u64 = 512 * 1024;

/// Room that a node keeps on its disk for the step log beyond what is in it at start: some 4,000 runs of steps, each with a
/// record of how it began and how it ended.
pub const STEP_LOG_ROOM_BYTES: u64 = 256 * 1024;

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

/// Reads of one content that may bring wrong bytes before the deployment stops: the first may be an accident on the way,
/// and the budget of a small package pays for no more than one such read again.
pub const WRONG_READS_MAX: u32 = 2;

/// How often a step that says `idempotent: true` is run again by itself after an outcome that nobody saw, if its
/// `retries` do not say more: a script that takes its node down must not do so for ever.
pub const UNKNOWN_RERUNS_MAX: u32 = 3;

/// How often a step that ends with exit code 75 (EX_TEMPFAIL: try again) is tried again, beside its `retries`: with the
/// default backoff that is two hours and a half.
pub const TEMPFAIL_RERUNS_MAX: u32 = 20;

/// How long a step waits before it is tried again the first time, unless the deployment file says otherwise; doubled
/// for each attempt more.
pub const BACKOFF: Duration = Duration::from_secs(1);

/// The longest that a step waits before it is tried again by doubling: what comes back does so sooner.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10 * 60);

/// How long a node that is asked whether it can run a step for its site may take to answer before another one is asked:
/// the answer is one round trip, behind a manifest of some MB over a thin line at worst.
pub const OFFER_WAIT: Duration = Duration::from_secs(10);

/// The same by doubling, where no node of a site answers: each time costs the journal three records.
pub const OFFER_WAIT_MAX: Duration = Duration::from_secs(10 * 60);

/// How often the clock is looked at while something waits for a time of day: a clock that is set is noticed this soon.
pub const CLOCK_LOOK_MAX: Duration = Duration::from_secs(60);

/// How far ahead a deployment may be planned: what is further away is a mistyped year.
pub const AT_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Freezes that hold or are to come, of the configuration or of operators: a few for each season and region.
pub const FREEZES_MAX: usize = 256;

/// How long a node that is away may catch up with a deployment, unless the deployment file says otherwise: a night, and the
/// day after it.
pub const CATCH_UP_UNTIL: Duration = Duration::from_secs(24 * 3600);

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

/// Waves in a deployment file: beyond some tens nobody watches each.
pub const WAVES_MAX: usize = 256;

/// Bytes of a selector: a page of text, more than a person writes.
pub const SELECTOR_BYTES_MAX: usize = 4096;

/// Nesting of parentheses and `not` in a selector, so that parsing one needs little stack.
pub const SELECTOR_DEPTH_MAX: usize = 32;

/// Bytes of a join string's value: a key, a secret and a dozen addresses.
pub const JOIN_BYTES_MAX: usize = 4096;
/// Bytes that a site may read again whatever the package's size: 1 % of a tiny package is less than one block.
pub const WAN_BUDGET_BYTES_MIN: u64 = 256 * 1024;

/// The part of what a site lacks that it may read again: one in this many bytes (WAN-ONCE: 1 %).
pub const WAN_BUDGET_DIVISOR: u64 = 100;

/// Smallest lease in bytes where nothing else bounds it: one request then reads long enough to fill the way.
pub const LEASE_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Largest lease in bytes: what a lost holder makes others wait for.
pub const LEASE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Runs of adjacent blocks in one lease: each is a request of its own.
pub const LEASE_RUNS_MAX: usize = 64;

/// Bytes that the holder of a lease asks to read at a time, at least: what its death costs beyond what others have of it.
pub const CREDIT_BYTES_MIN: u64 = 256 * 1024;

/// The part of a large block that is asked for at a time.
pub const CREDIT_STEPS_PER_BLOCK: u64 = 4;

/// Leases that one node holds: one that it reads, others so that no round trip idles.
pub const LEASES_PER_NODE_MAX: usize = 4;

/// Bytes leased to one node: two of the largest leases, and more than two seconds of 100 Mbit/s.
pub const LEASED_BYTES_PER_NODE_MAX: u64 = 2 * LEASE_BYTES_MAX;

/// How long a lease is given at least, whatever its size: longer than an origin may be [silent](ORIGIN_STALL), so that its reader
/// notices that first and asks again.
pub const LEASE_TIME_MIN: Duration = Duration::from_secs(30);

/// Bytes a second that a node is thought to read before it was measured, for deadlines.
pub const LEASE_RATE_GUESS: u64 = 512 * 1024;

/// How long a node may be away before its leases are lost: a restart of the agent, or a short break of the network.
pub const HOLDER_GRACE: Duration = Duration::from_secs(10);

/// The same for a node whose own side closed its connection, as a process that ends does: an agent that is started again
/// dials within a second or two, and one that stays away reads nothing meanwhile that waiting would save.
pub const CLOSED_HOLDER_GRACE: Duration = Duration::from_secs(3);

/// The same at the end of a content, when the site waits for nothing but what such a node read.
pub const CLOSED_HOLDER_GRACE_AT_END: Duration = Duration::from_secs(1);

/// How long blocks that came to a site wait to be put on record, for others.
pub const CAME_TOLD_EVERY: Duration = Duration::from_secs(2);

/// How long a coordinator that was restarted waits for the nodes of a site before it grants what they may already hold
/// or read: the longest wait between two dials, and the dial.
pub const RETURN_MAX: Duration = Duration::from_secs(15);
/// How long a connected node may take to answer a revocation before its lease is lost.
pub const REVOKE_ANSWER_MAX: Duration = Duration::from_secs(30);

/// A node may have at stake what the budget has left, or this part of it where the site has many nodes that read: then the
/// loss of one leaves enough for the next. With the whole, two of three sites of 60 that lost a fifth of their nodes came to
/// wait for an operator (`shoal-sim bench swarm --churn 20`).
pub const STAKE_SHARES_MAX: u64 = 8;

/// Nodes that read for each share that the budget is parted in: a few nodes have to read much ahead to fill the WAN.
pub const NODES_PER_STAKE_SHARE: u64 = 8;

/// How long a node's blocks may wait for a second holder before it gets leases all the same: then nobody can fetch from
/// it, and waiting helps nobody.
pub const REPLICATION_WAIT_MAX: Duration = Duration::from_secs(5);

/// First wait after a node, or the origin for all nodes, failed; it doubles with each further failure.
pub const READ_BACKOFF_MIN: Duration = Duration::from_secs(1);

/// Longest wait after failures.
pub const READ_BACKOFF_MAX: Duration = Duration::from_secs(300);

/// A reader is late no sooner than this after its last block, however fast the others are: a busy origin may take as long
/// to begin an answer. Until it is known how long others take, this is how often that is looked at.
pub const READER_LATE_MIN: Duration = Duration::from_millis(500);

/// How long a node that is far slower than the others gets no lease.
pub const SLOW_READER_REST: Duration = Duration::from_secs(30);

/// Nodes that read over the WAN at the same time at first: as many as [`TRANSFERS_MIN`], so that over a WAN like a node's link
/// the first blocks arrive as fast as they are passed on. Fewer leave links idle, more have all who ask wait.
pub const READERS_MIN: u32 = TRANSFERS_MIN as u32;

/// Nodes of one site that read over the WAN at the same time.
pub const READERS_MAX: u32 = 256;

/// How often one block is granted because nodes are stuck though the site has it.
pub const STUCK_GRANT_EVERY: Duration = Duration::from_secs(30);

/// Neighbours of one exchange: the full mesh of a site of 24 and the graph of degree 16 fit with room for change.
pub const NEIGHBOURS_MAX: usize = 256;

/// How long a neighbour that sent wrong bytes is asked for nothing: others and the WAN have their turn first
/// ([`STUCK_AFTER`] is far shorter), and one that goes on lying wastes one window of requests of its neighbours a minute.
/// In a small site it may be the only one that has the rest, so that for ever would be too long for an accident.
pub const LIAR_REST: Duration = Duration::from_secs(60);

/// How often a neighbour may send wrong bytes before it is asked for nothing ever again: once is a bit that fell over, a
/// second time after the rest is a broken machine or a liar.
pub const LIES_MAX: u32 = 2;

/// Neighbours that sent wrong bytes and are remembered: four times as many as an exchange has at once.
pub const LIARS_MAX: usize = 1024;

/// Requests in flight to one neighbour at least: the next block is asked for before the last one arrived.
pub const REQUESTS_PER_NEIGHBOUR_MIN: usize = 2;

/// Requests in flight to one neighbour at most: 16 blocks of 128 KiB fill 160 Mbit/s over 100 ms.
pub const REQUESTS_PER_NEIGHBOUR_MAX: usize = 16;

/// Bytes asked of all neighbours at the same time, so that a node's memory stays small; one block is always allowed.
pub const REQUESTED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Blocks asked of all neighbours at a time, and blocks served at a time, at least. As many of the one as of the other: then
/// whoever has a slot free finds somebody who has a request free, and all links are full. With more or fewer slots than
/// requests a site of 200 took 20 to 60 % longer (`shoal-sim bench swarm`), since requests gather at some nodes while others
/// idle. More of both pass a new block on later; fewer leave links idle between two blocks.
pub const TRANSFERS_MIN: usize = 6;

/// What is read over the WAN counts as one of them unless a block takes this fraction longer than from neighbours.
pub const READ_SLACK: u32 = 6;

/// What comes of a block within this time is written together, and passed on: a fraction of what a block takes over a link
/// that it shares with others. Shorter, and a fast link costs a write for each segment.
pub const PART_TIME: Duration = Duration::from_millis(10);

/// What was read over the WAN waits no longer than this to be written with what comes next: if the process dies before, it
/// has to be read again.
pub const UNWRITTEN_TIME_MAX: Duration = Duration::from_millis(100);

/// A smaller block is not passed on in parts: it is there before others have heard of it, and each part is a write.
pub const PASSED_ON_BYTES_MIN: u64 = 512 * 1024;

/// Bytes that are asked for at a time at least, in as many blocks as that takes: over a long way, a few small blocks would
/// leave the link idle.
pub const TRANSFERS_BYTES_MIN: u64 = 1024 * 1024;

/// Blocks served at the same time, those included that take too long to hold a slot.
pub const UPLOADS_MAX: usize = 32;

/// How many blocks a node that was refused may have fewer than one that is served before it: the fewer, the nearer together
/// all end, and the more pairs are parted.
pub const BEHIND_BLOCKS_MAX: u32 = 2;

/// How long a slot is left to the node that it served, at most: a round trip, and some time to write what came.
pub const OFFER_AFTER: Duration = Duration::from_micros(2500);

/// The same at least, however soon nodes ask again.
pub const OFFER_AFTER_MIN: Duration = Duration::from_micros(500);

/// Blocks that wait to be announced: a message for each block would cost more than it tells.
pub const ANNOUNCED_BLOCKS: usize = 8;

/// How long blocks wait to be announced.
pub const ANNOUNCE_EVERY: Duration = Duration::from_millis(100);

/// First rest of a neighbour that failed; it doubles with each further time.
pub const NEIGHBOUR_REST_MIN: Duration = Duration::from_millis(50);

/// Longest rest of a neighbour.
pub const NEIGHBOUR_REST_MAX: Duration = Duration::from_secs(10);

/// A request is slow when it takes this many times the median.
pub const SLOW_FACTOR: u32 = 3;

/// No request is slow before this age, whatever the median: a disk may be busy for as long. Shorter, and what was asked
/// elsewhere comes twice; longer, and one slow node of ten costs the others more (`shoal-sim bench swarm --slow 10`).
pub const SLOW_AGE_MIN: Duration = Duration::from_millis(500);

/// The age at which a request is slow as long as nothing has arrived that says how long blocks take. Where that is shorter than
/// they do take, each is asked for again elsewhere, and all take longer still.
pub const SLOW_AGE_FIRST: Duration = Duration::from_secs(3);

/// Blocks on their way when nothing else is missing, at which the last ones are asked of a second neighbour.
pub const ENDGAME_BLOCKS_MAX: usize = 16;

/// How long nothing arrives before a node is stuck; it doubles each time it is said again.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Blocks named when a node is stuck.
pub const STUCK_BLOCKS_MAX: usize = 64;
/// Deployments that a node names as pinning one package: every release that could still be rolled back to, with room to
/// spare. A package that more of them pin is pinned all the same: the set is said anew when one of those named is over.
pub const PINS_PER_PACKAGE_MAX: usize = 1024;

/// Bytes of a node's record of one package: its pins at up to ten bytes each, with room to spare.
pub const PACKAGE_RECORD_BYTES_MAX: usize = 16 * 1024;

/// Rest of a neighbour that has no slot free, unless it offers one before, at least: a few round trips ...
pub const BUSY_REST_MIN: Duration = Duration::from_millis(5);

/// ... and at most: a slow one may have a slot free soon, too.
pub const BUSY_REST_MAX: Duration = Duration::from_millis(250);

/// How often in a row a neighbour may refuse before it is asked ever more rarely.
pub const REFUSALS_FREE: u32 = 32;

/// A block that at most this many neighbours have is announced at once: others wait for it.
pub const ANNOUNCED_AT_ONCE_COPIES: u32 = 3;

/// How long the first of a site's nodes that wants a content waits for the others, so that leases are made for all of them.
/// They open it within milliseconds of each other unless one has much to hash.
pub const GATHER_MAX: Duration = Duration::from_millis(500);

/// Nodes of a site that may read a content without leases while the coordinator is away: with leases as many read at first
/// as [`READERS_MIN`], and half may be lost.
pub const DEPUTIES_MAX: usize = 8;

/// How long the coordinator is out of reach before deputies read: longer than a restart and than the longest redial.
pub const COORDINATOR_GRACE: Duration = Duration::from_secs(30);

/// How long what a deputy sees of its site has to stand before it reads by it: many round trips, so that all see the same.
pub const VIEW_SETTLED: Duration = Duration::from_secs(2);

/// Bytes of a run of blocks that one deputy reads: the smallest lease.
pub const DEPUTY_RUN_BYTES: u64 = LEASE_BYTES_MIN;

/// How often a deputy that has nothing to read looks again: others may have failed meanwhile.
pub const DEPUTY_LOOKS: Duration = Duration::from_millis(500);

/// Hops to a node that the coordinator reaches, at most: beyond them there is none. Graphs of degree 16 with 20,000 nodes
/// have a diameter of 5.
pub const REACH_HOPS_MAX: u8 = 8;

/// Ended leases of one content that a node keeps for a coordinator that is away: at 4 MiB each a deputy's part of 8 GiB.
/// The oldest go first; then the sums are too low, as nothing else is.
pub const LEASES_KEPT_MAX: usize = 256;

/// Leases that a ledger did not grant and charged, so that none is charged twice: those of the largest package.
pub const FACTS_MAX: usize = 65_536;

/// Leases whose ends are awaited though their ledger is gone: as many as all nodes hold of one content.
pub const LATE_ENDS_MAX: usize = NODES_MAX * LEASES_PER_NODE_MAX;

/// Shares of a site's WAN limit are reckoned this often at most: readers come and go faster than a change shows.
pub const SHARES_EVERY: Duration = Duration::from_millis(100);

/// A share is raised this long after others were lowered, so that these have heard of it: longer than most ways to a node
/// take, and short enough that what lies idle meanwhile is not felt. Where it takes longer, a moment is over the limit.
pub const SHARE_RAISE_DELAY: Duration = Duration::from_millis(60);

/// A node says this often how fast it reads under a limit: often enough that what it leaves is used soon.
pub const WAN_RATE_EVERY: Duration = Duration::from_secs(1);

/// The least limit of a site or node, in bytes a second: with less, a lease's end is out of sight.
pub const RATE_LIMIT_MIN: u64 = 16 * 1024;

/// Entries in a site's calendar: more are a mistake.
pub const CALENDAR_ENTRIES_MAX: usize = 64;

/// A node without a lease keeps its share of the WAN limit this long: longer than it waits for its next lease.
pub const SHARE_LINGER: Duration = Duration::from_millis(700);

/// Packages in what a node says of its cache, the last used ones: with 32 bytes each, a message of 128 KiB.
pub const INVENTORY_PACKAGES_MAX: usize = 4096;

/// Recipes of packages in one node's cache that a plan looks into: each is read from the disk, and what a new version
/// shares is in the few versions before it.
pub const PLAN_RECIPES_MAX: usize = 64;

/// Entries of `variables` in a deployment file: a few dozen variables in a few scopes each.
pub const VARIABLES_MAX: usize = 256;

/// Bytes of a variable's value: the longest, certificates and keys, have a few thousand. All of a node fit in a message.
pub const VARIABLE_BYTES_MAX: usize = 8 * 1024;

/// Bytes of all distinct values of a deployment, so that they fit in a record beside the manifest.
pub const VARIABLES_BYTES_MAX: usize = 1024 * 1024;

/// Letters of a secret at least: a shorter one would be masked in words that it only happens to be in.
pub const SECRET_BYTES_MIN: usize = 4;

/// Bytes of a file that is filled in with variables: far more than a configuration file has.
pub const TEMPLATE_BYTES_MAX: u64 = 1024 * 1024;
