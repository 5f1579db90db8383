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

/// Smallest block in bytes: below it, requests cost more than payload.
pub const BLOCK_BYTES_MIN: u64 = 128 * 1024;

/// Largest target size of a block in bytes: a slow neighbour still finishes one within seconds. A block ends with the
/// segment that reaches the target, so that one is at most this plus one segment.
pub const BLOCK_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Blocks that a package is cut into if the two bounds above allow: a swarm of 1,000 nodes then stays within 1 % of the
/// optimum, since overhead is log2(nodes) / blocks.
pub const BLOCKS_PER_PACKAGE: u64 = 1024;

/// Largest segment in bytes: the most that is read before it can be verified.
pub const SEGMENT_BYTES_MAX: usize = 256 * 1024;

/// FastCDC's average segment in bytes.
pub const SEGMENT_BYTES_AVG: usize = 64 * 1024;

/// FastCDC's smallest segment in bytes (but for the last of a run).
pub const SEGMENT_BYTES_MIN: usize = 16 * 1024;

/// Data of a zip entry up to this many bytes is one segment; longer data is cut by FastCDC.
pub const ZIP_ENTRY_WHOLE_BYTES_MAX: u64 = 128 * 1024;

/// Bytes between two missing ranges that are read rather than skipped: a request costs about as much.
pub const GAP_BYTES_MAX: u64 = 4 * 1024;

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

/// Attempts at one step on one node.
pub const ATTEMPTS_MAX: u32 = 100;

/// How long a step may run unless the deployment file says otherwise.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10 * 60);
