//! Every bound that the file does not set, with its unit and where it comes from.

use std::time::Duration;

/// Longest job id, bytes. The spec's pattern `[A-Za-z0-9_-]{1,128}`.
pub const JOB_ID: usize = 128;
/// Longest export type, bytes: a path segment that stays readable in a metric label.
pub const EXPORT_TYPE: usize = 64;
/// Longest request id taken from a client, bytes of visible ASCII.
pub const REQUEST_ID: usize = 128;
/// Longest value of a cookie or claim that names a user, bytes.
pub const USER_VALUE: usize = 1_024;
/// Longest JSON Web Token that is looked at, bytes: with a dozen claims they have one or two KiB.
pub const TOKEN: usize = 8 * 1024;
/// How far clocks may be apart where a token's time is checked.
pub const TOKEN_LEEWAY: Duration = Duration::from_secs(30);
/// Most keys that tokens are checked with: a token without a key id may be tried with each.
pub const TOKEN_KEYS: usize = 16;
/// Most certificates that clients are met with.
pub const CERTIFICATES: usize = 64;
/// Most names of one certificate; public authorities allow 100.
pub const CERTIFICATE_NAMES: usize = 1_000;
/// Largest configuration file that is read, bytes: far above any real one, far below what hurts.
pub const CONFIG_FILE: u64 = 1024 * 1024;
/// Most problems of one configuration file that are reported.
pub const CONFIG_PROBLEMS: usize = 100;
/// Longest piece of a configuration line that a problem shows, characters.
pub const CONFIG_EXCERPT: usize = 100;
/// Longest sentence about a configuration, characters: all of our own are shorter, what they repeat may not be.
pub const CONFIG_MESSAGE: usize = 600;
/// Deepest nesting of the configuration, tables and lists counted alike: real files need 4.
pub const CONFIG_DEPTH: usize = 32;
/// Longest duration in the configuration, days.
pub const CONFIG_DAYS: u64 = 3_650;
/// Largest size in the configuration, bytes.
pub const CONFIG_SIZE: u64 = 1024 * 1024 * 1024 * 1024;
/// Deepest nesting of foreign JSON that is read; serde_json's own recursion limit.
pub const JSON_DEPTH: usize = 128;
/// Most members of a foreign JSON object at its top level: real ones have fewer than twenty.
pub const JSON_FIELDS: usize = 256;
/// How much of an answer is searched for an edge error, bytes: Cloudflare's own pages stay below 16 KiB.
pub const EDGE_PAGE: usize = 64 * 1024;

/// How long a job just started on workers may answer 404 before that means "not found".
pub const FRESH_JOB: Duration = Duration::from_secs(30);
/// How long "neither backend has this job" is remembered.
pub const NEITHER_KEPT: Duration = Duration::from_secs(5);
/// Most look-ups of unknown jobs at the same time, over all threads.
pub const JOB_LOOKUPS: usize = 50;
/// Most WebSocket handshakes for unknown jobs at the same time, over all threads.
pub const UNKNOWN_JOB_SOCKETS: usize = 50;
/// Most "neither has it" answers remembered: 50 look-ups of 10 ms fill it in 5 s at the most.
pub const NEITHER_ENTRIES: usize = 25_000;
/// Largest body of such an answer that is remembered, bytes: legacy's own has 26.
pub const NEITHER_ANSWER: usize = 1024;
/// Jobs held in memory in front of the store, those used last: an hour of 25 starts a second.
pub const CACHED_JOBS: usize = 100_000;

/// Most queued writes of the embedded store before a write is refused at once.
pub const STORE_QUEUE: usize = 16_384;
/// Most writes in one transaction of the embedded store (measured: more gains nothing).
pub const STORE_BATCH: usize = 512;
/// How long one operation on the embedded store may take before its caller stops waiting.
pub const STORE_WAIT: Duration = Duration::from_secs(5);
/// How long the embedded store waits for somebody else's lock on its file.
pub const STORE_BUSY: Duration = Duration::from_millis(500);
/// A store that failed is tried again this often.
pub const STORE_RETRY: Duration = Duration::from_secs(1);
/// Damaged store files kept beside the store; beyond it nothing is set aside any more, since the disk must be at fault.
pub const DAMAGED_KEPT: usize = 16;
/// Threads that read the embedded store; reads are short and rare, the cache answers most.
pub const STORE_READERS: usize = 2;
/// Owners that could not be written and are tried again; beyond it the oldest is given up and logged.
pub const OWED_JOBS: usize = 100_000;
/// Most replicas that a write may have to wait for.
pub const REDIS_REPLICAS: u32 = 16;
/// How long connecting to Redis may take: name, TCP, TLS, password, and for Sentinel and Cluster the way to the node.
pub const REDIS_CONNECT: Duration = Duration::from_secs(1);
/// How long Redis may take to answer before the answer counts as lost.
pub const REDIS_WAIT: Duration = Duration::from_secs(1);
/// How long replicas of Redis may take to confirm a write; below [`REDIS_WAIT`], so that it is Redis that says no.
pub const REDIS_REPLICA_WAIT: Duration = Duration::from_millis(800);
/// How long an operation whose answer was lost waits for another connection, to be sent once more.
pub const REDIS_SETTLE: Duration = Duration::from_secs(1);
/// A lost connection to Redis is tried again this often.
pub const REDIS_RETRY: Duration = Duration::from_millis(200);
/// How often Redis is looked at when nobody asks: is it there, how many jobs are open.
pub const REDIS_TICK: Duration = Duration::from_secs(1);
/// How often Redis is asked whether it keeps what it is given.
pub const REDIS_CHECK: Duration = Duration::from_secs(60);
/// Operations on Redis that are under way at the same time; more of them wait in the queue.
pub const REDIS_IN_FLIGHT: usize = 4_096;
/// Writes that nobody waits for (indexes, intents to be forgotten) and that are still tried.
pub const REDIS_LATER: usize = 16_384;
/// Records of an index that are read at the same time.
pub const REDIS_BATCH: usize = 256;
/// Entries of an index that are looked through for one list.
pub const REDIS_SCANNED: usize = 20_000;
/// Age from which an entry of an index without its record is removed: a younger one's record may be on its way.
pub const REDIS_STALE: Duration = Duration::from_secs(60);
/// How long a key that was freed remembers whose it was: a lost write of that start may still arrive.
pub const REDIS_GRAVE: Duration = Duration::from_secs(5 * 60);
/// How long one gateway alone does the work of the background before another may take it over.
pub const REDIS_LEASE: Duration = Duration::from_secs(15);
/// How long an open start that is asked of workers again is left to the gateway that asks.
pub const REDIS_ASKED: Duration = Duration::from_secs(5 * 60);
/// Shortest time that a record is kept in Redis, whatever its age.
pub const REDIS_KEPT: Duration = Duration::from_secs(60);
/// Longest text of a record in Redis that is read, bytes; a key of workers has 64, a user id rarely 100.
pub const REDIS_TEXT: usize = 4 * 1024;
/// Longest body of a record in Redis that is read, bytes: no file allows a larger start.
pub const REDIS_BODY: usize = 64 * 1024 * 1024;
/// Longest `Idempotency-Key` of a client, bytes of visible ASCII.
pub const CLIENT_KEY: usize = 255;
/// Largest answer that is kept for a client's key, bytes of body and content type: real ones have some hundred.
pub const KEPT_ANSWER: usize = 16 * 1024;
/// How often it is tried to forget a start that made no job while the store is away, once a [`STORE_RETRY`].
pub const FREE_TRIES: usize = 600;
/// How often a key is tried to be claimed that changes hands at the same moment.
pub const CLAIM_TRIES: usize = 3;
/// Starts that a crash left open are asked of workers again up to this age: no Worker remembers keys for ever.
pub const ASK_AGAIN_AGE: Duration = Duration::from_secs(60 * 60);
/// Open starts of before that are asked of workers at the same time.
pub const ASK_AGAIN_AT_ONCE: usize = 8;
/// Open starts of before that are read at a time, with their bodies.
pub const ASK_AGAIN_BATCH: usize = 64;
/// How often workers that cannot be reached are tried for the open starts of before, and how far apart.
pub const ASK_AGAIN_TRIES: usize = 12;
/// The pause between two such tries.
pub const ASK_AGAIN_PAUSE: Duration = Duration::from_secs(5);
/// Expiry begins this long after the start, and looks this often.
pub const EXPIRY_EVERY: Duration = Duration::from_secs(60);
/// Expiry goes on this soon when a pass found as much as it may delete.
pub const EXPIRY_NEXT: Duration = Duration::from_millis(100);
/// A stepped wall clock is believed once it has run evenly for this long.
pub const CLOCK_BELIEVED: Duration = Duration::from_secs(24 * 60 * 60);
/// Most rows that the command line lists.
pub const LISTED: usize = 1_000;
/// Most rows that one pass of expiry deletes, so that writes never wait long behind it.
pub const EXPIRY_BATCH: usize = 1_000;
/// Wall and monotonic clock may disagree by this much before expiry pauses.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How long a look-up in a user's database may wait for a writer.
pub const LOOKUP_BUSY: Duration = Duration::from_millis(250);
/// How long a look-up may take in all before its caller stops waiting (a disk that hangs).
pub const LOOKUP_WAIT: Duration = Duration::from_secs(2);
/// Threads that look up without waiting for locks.
pub const LOOKUP_THREADS: usize = 2;
/// Threads that look up in databases which were locked at the first try.
pub const LOOKUP_PATIENT_THREADS: usize = 4;
/// Open database handles kept over all users.
pub const LOOKUP_HANDLES: usize = 256;
/// SQLite virtual machine steps that one look-up may take, in units of [`LOOKUP_STEP_UNIT`].
pub const LOOKUP_STEPS: u32 = 1_000;
/// Virtual machine steps between two checks of the step limit.
pub const LOOKUP_STEP_UNIT: i32 = 1_000;
/// Look-ups waiting for a thread before a further one fails at once.
pub const LOOKUP_QUEUE: usize = 1_024;
/// Longest file name that a look-up may return, bytes: the longest object key that R2 and S3 take.
pub const INPUT_KEY: usize = 1_024;

/// Longest PROXY header of version 1, bytes (its specification, section 2.1).
pub const PROXY_LINE: usize = 107;
/// Longest PROXY header of version 2, bytes: HAProxy's own buffer; a client certificate may be in it.
pub const PROXY_HEADER: usize = 16 * 1024;
/// Connections that are not served are told to the log this often.
pub const REFUSED_TOLD: Duration = Duration::from_secs(10);

/// How long a request body waits for the backend's `100 Continue` before it is sent all the same (RFC 9110, 10.1.1).
pub const CONTINUE_WAIT: Duration = Duration::from_secs(1);
/// Most bytes kept of a client that sends before its WebSocket handshake is answered.
pub const HELD: usize = 64 * 1024;
/// Interim answers (1xx) to one request that are handed on: a backend that says "processing" every second for a minute.
pub const INTERIM_ANSWERS: usize = 64;
/// Their bytes together: as much as a request's head may have.
pub const INTERIM_BYTES: usize = 32 * 1024;
/// How long a closed connection is read on, so that a client still sending gets its answer (RFC 9112, 9.6).
pub const LINGER: Duration = Duration::from_secs(2);
/// Most bytes thrown away while a closed connection lingers.
pub const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// How long a listener that is to close still accepts, so that those who have just been told of it are served.
pub const LAST_ACCEPTS: Duration = Duration::from_millis(50);
/// How long handshakes that are under way may take to complete after that.
pub const LAST_HANDSHAKES: Duration = Duration::from_millis(20);
/// How long a connection that came while the gateway was going down has for the first byte of its one request.
pub const FIRST_REQUEST: Duration = Duration::from_millis(500);
/// Idle connections kept per backend and thread.
pub const POOL_IDLE: usize = 1_024;
/// A backend that closes a connection this soon after an answer may be closing the next one right now.
pub const EARLY_CLOSE: Duration = Duration::from_secs(1);
/// How long requests that cannot be repeated get connections of their own after that.
pub const DISTRUST: Duration = Duration::from_secs(60);
/// How long an answer about a name counts as new: with the pools' sweep, a new address is used within a second of the
/// time that the system's resolver knows it.
pub const DNS_FRESH: Duration = Duration::from_millis(700);
/// How long a new connection waits for a look-up before the last good addresses have to do.
pub const DNS_PATIENCE: Duration = Duration::from_millis(250);
/// Threads that look names up: one for each backend, and as many for names that a reload has just replaced.
pub const DNS_THREADS: usize = 4;
/// Look-ups that wait for a thread; a name is in it once at the most.
pub const DNS_QUEUE: usize = 64;
/// Two address families are tried this far apart (RFC 8305 says 250 ms).
pub const DIAL_STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are dialled at the most.
pub const DIAL_ADDRESSES: usize = 8;
/// Header fields that a backend's answer may have.
pub const ANSWER_HEADERS: usize = 200;
/// Size of a backend's answer head, bytes. Cloudflare allows 128 KiB in all.
pub const ANSWER_HEAD: usize = 128 * 1024;
/// `Retry-After` of the gateway's own 503s, seconds.
pub const RETRY_AFTER: u64 = 2;

/// Streams that a client may have open on one HTTP/2 connection (RFC 9113, 6.5.2, says not below 100; nginx has 128).
pub const H2_STREAMS: u32 = 128;
/// Bytes of one request body that a client may send ahead on HTTP/2: 10 MiB/s over 50 ms.
pub const H2_STREAM_WINDOW: u32 = 512 * 1024;
/// Bytes of all request bodies of one HTTP/2 connection that it may send ahead, and so make the gateway hold.
pub const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Largest HTTP/2 frame that is taken; RFC 9113, 6.5.2, has no smaller one.
pub const H2_FRAME: u32 = 16 * 1024;
/// Bytes of one answer that wait for their HTTP/2 client.
pub const H2_SEND_BUFFER: usize = 64 * 1024;
/// Pseudo-header fields of a request, with room for one more.
pub const H2_PSEUDO_FIELDS: usize = 5;
/// Streams that a client has cancelled before they were looked at (h2's own default, since CVE-2023-44487).
pub const H2_PENDING_RESETS: usize = 20;
/// Streams of one connection that end because the client broke the rules, before the connection does; h2 has 1024.
pub const H2_ERROR_RESETS: usize = 256;
/// Streams that may be cancelled at once, more than are not, before the connection is cut.
pub const H2_CANCELLED: u32 = 200;
/// A stream that lives for less than this was cancelled at once.
pub const H2_AT_ONCE: Duration = Duration::from_secs(1);
/// How long a client of HTTP/2 that has been told to go may be silent when nothing is under way, before it is cut.
pub const H2_GOODBYE: Duration = Duration::from_secs(5);
/// A silent HTTP/2 connection is asked this often whether anybody is there.
pub const H2_PING: Duration = Duration::from_secs(30);
/// And has this long to answer: on a slow line some MiB of an answer are before the question.
pub const H2_PONG: Duration = Duration::from_secs(60);

/// Requests on one HTTP/2 connection to workers, whatever they allow; with more a further connection is opened.
pub const H2_BACKEND_STREAMS: usize = 100;
/// Bytes of one answer that workers may send ahead: their answers are read whole, up to 1 MiB.
pub const H2_ANSWER_WINDOW: u32 = 256 * 1024;
/// Bytes of all answers of one connection that workers may send ahead.
pub const H2_ANSWERS_WINDOW: u32 = 4 * 1024 * 1024;
/// Streams given up here whose late frames are still told from nonsense.
pub const H2_FORGOTTEN: usize = 100;
/// An HTTP/2 connection to workers is asked this often whether anybody is there, so that no start goes into a dead one.
pub const H2_BACKEND_PING: Duration = Duration::from_secs(10);
/// And has this long to answer.
pub const H2_BACKEND_PONG: Duration = Duration::from_secs(5);

/// Descriptors that are not for connections: databases, listeners, the admin port. Of few it is half.
pub const OWN_DESCRIPTORS: u64 = 512;
/// Requests worked on at the same time over all threads; beyond it new ones get 503 `overloaded`.
pub const REQUESTS: usize = 20_000;

/// After this without an event the configuration's content is compared all the same (NFS has no events).
///
/// With [`CONFIG_SETTLE`] it stays below the promised second; a look costs about 30 µs.
pub const CONFIG_POLL: Duration = Duration::from_millis(500);
/// Two equal reads this far apart mean that an edit in place is over.
pub const CONFIG_SETTLE: Duration = Duration::from_millis(50);
/// Two looks at the configuration are at least this far apart, however many events come.
pub const CONFIG_PAUSE: Duration = Duration::from_millis(2);
/// After this a failed watch of the configuration's folder is tried again.
pub const CONFIG_REWATCH: Duration = Duration::from_secs(30);
/// Outcomes of reloads that are remembered.
pub const RELOAD_HISTORY: usize = 20;
/// Symbolic links followed from the configuration's path to its file; Linux itself stops at 40.
pub const CONFIG_LINKS: usize = 8;

/// Access-log lines are written at least this often.
pub const LOG_FLUSH: Duration = Duration::from_millis(500);
/// How long the end of the process waits for the access log's reader.
pub const LOG_END: Duration = Duration::from_secs(1);
/// Bytes of access log that a thread gathers before it hands them over.
pub const LOG_BUFFER: usize = 64 * 1024;
/// Buffers that wait for the log's writer before lines are dropped and counted.
pub const LOG_QUEUE: usize = 64;
/// Longest piece of client data in a log line, bytes.
pub const LOG_FIELD: usize = 256;

/// How long one batch of spans may take to be sent.
pub const TRACE_EXPORT: Duration = Duration::from_secs(10);
/// Largest answer of a collector that is read, bytes: it has a sentence about what was refused.
pub const TRACE_ANSWER: usize = 64 * 1024;
/// How long the end of the process waits for the last spans to be sent.
pub const TRACE_END: Duration = Duration::from_secs(2);

/// Connections to the admin port at the same time.
pub const ADMIN_CONNECTIONS: usize = 64;
/// How long one connection to the admin port may last: 64 that never end would keep probes out.
pub const ADMIN_CONNECTION: Duration = Duration::from_secs(60);
/// How long an asker on the admin port has for a request head.
pub const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long accepting pauses after a failure, most likely for want of descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// An open job that nobody has polled for this long is asked about in the background.
pub const UNPOLLED: Duration = Duration::from_secs(30);
/// Time between two such asks: at most 5 a second, also with the shortest jitter.
pub const UNPOLLED_PACE: Duration = Duration::from_millis(223);
/// Time between two looks for such jobs.
pub const UNPOLLED_LIST: Duration = Duration::from_secs(5);
/// Open jobs that one such look takes in, oldest first.
pub const UNPOLLED_LISTED: usize = 10_000;
/// An open job of this age that nobody has seen the end of counts as lost.
pub const LOST_JOB: Duration = Duration::from_secs(2 * 60 * 60);

/// Sockets that whoever starts the process may pass in: one per thread of the largest machines; SCM_MAX_FD of Linux is 253.
pub const PASSED_SOCKETS: usize = 253;
/// Longest status line for a service manager, bytes.
pub const STATUS_LINE: usize = 256;
/// How often the service manager is told how the gateway is, if that has changed.
pub const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How long a reload that was asked for may take before the service manager is told that it is over all the same.
pub const RELOAD_WAIT: Duration = Duration::from_secs(2);
/// How long a gateway that takes over has until it could serve: its store of a million jobs is checked meanwhile.
pub const TAKE_OVER_PREPARE: Duration = Duration::from_secs(60);
/// How long the two may take to answer each other once both are ready.
pub const TAKE_OVER_STEP: Duration = Duration::from_secs(10);
