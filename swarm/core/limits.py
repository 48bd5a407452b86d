"""Every bound of the wire protocol and of a connection: its name, its unit, its reason.

What an operator may change is in a node's configuration and only has its default here.
The bounds are part of docs/protocol.md; the relations between them are asserted at the end.
"""

KIB = 1024
MIB = 1024 * KIB

# Frames.
FRAME_BYTES_MAX = 33 * MIB  # an update of the largest value carries it twice, old and new
HELLO_BYTES_MAX = 4 * KIB  # before its hello a peer is a stranger: it gets next to no memory
FRAME_BYTES_PLAIN = 1 * MIB  # above it a body is decoded with its arrays counted, see framing
FRAME_ARRAYS_LARGE = 16  # arrays in such a body: one request has four, so few bytes cannot become many objects
DEPTH_MAX = 16  # arrays and maps in each other, the body itself among them: requests have 4
DEPTH_BYTES_MIN = 2 * KIB  # shorter bodies, however deep, are decoded in 4 ms at most
FRAME_BYTES_UNCOUNTED = 64 * KIB  # bodies as long may hold any number of arrays and maps: some 6 ms
FRAME_ARRAYS_MAX = 16384  # arrays in a longer body, up to FRAME_BYTES_PLAIN: more than a frame of messages needs
FRAME_MESSAGES = 4096  # of a client in one frame: nodes take no more than ARRAY_ELEMENTS_MAX, and few arrays in each
ARRAY_ELEMENTS_MAX = 8192  # of a node's input: as many are taken memory for as an array announces
ARRAY_ELEMENTS_STRANGER = 64  # before the hello and the login, of maps too
APART_BYTES_MIN = 64 * KIB  # what ends a frame and is as long is sent from where it lies: msgpack's longest bin header
COMPRESS_BYTES_MIN = 1 * KIB  # below it compression costs more than it saves

# What a request may carry.
CHANNEL_LENGTH_MAX = 128  # characters; a channel is a file name on disk
KEY_BYTES_MAX = 480  # with the 8-byte hash before it a key fits into an LMDB key (511)
VALUE_BYTES_MAX = 16 * MIB  # default, per node
BATCH_RECORDS_MAX = 4096  # some 2 ms of a node's time
BATCH_BYTES = 256 * KIB  # what a batch aims at: large enough to be cheap, small enough to stall nobody
REPLY_BYTES_MAX = 4 * MIB  # a get many stops after the value that passes it
REQUEST_ID_MAX = 2**32 - 1

# A connection.
STREAMS_MAX = 64  # at once, per connection: each holds a task and some batches
CREDIT_MAX = 64  # batches a stream may be ahead of its client
OUTPUT_BYTES_MAX = 1 * MIB  # past it, requests of a client that does not read are left unread
STRANGER_OUTPUT_BYTES_MAX = 4 * KIB  # the same before the login: it needs a hello and some answers
HELD_REPLY_BYTES = 256  # what an answer counts as output while it is held: about what it takes in memory
HELLO_TIMEOUT_S = 10.0  # from accepting the connection on, so with TLS its handshake included
LAST_NOTICE_S = 1.0  # for a stranger to read why its time is over, where the system does not keep that for it
HANDSHAKES_MAX = 256  # of TLS that are not complete, per node; one more takes the place of the oldest
UNFINISHED_FRAME_TIMEOUT_S = 60.0  # a client that stops in the middle of a frame does not keep its memory for ever
UNFINISHED_SHARE = 1 / 16  # of memory_limit (or two frames) that all connections' input may take that waits for more
UNFINISHED_BYTES_FREE = 16 * KIB  # of one connection, whatever the others hold: so much is an ordinary request
STALLED_OUTPUT_TIMEOUT_S = 60.0  # a client that reads nothing for so long is gone
CLOSING_TIMEOUT_S = 600.0  # for the last output of a connection to leave, however slowly it is read
CONNECTIONS_MAX = 4096  # default, per node

# Authentication.
CLIENT_NAME_LENGTH_MAX = 64  # characters
CREDENTIALS_MAX = 1000  # clients in a credentials file: read in some 16 ms, in which the node answers nobody
CREDENTIALS_FILE_BYTES_MAX = 1 * MIB
CREDENTIALS_PATTERNS_MAX = 64  # for each access of one client: looked through with each of its requests
CLIENT_KEY_BYTES = 32  # of a client: nobody guesses it
NONCE_BYTES = 32  # never the same twice
PROOF_BYTES = 64  # of SHA-512
LOGIN_DELAY_FIRST_S = 0.5  # of the answer to a login that failed, then twice as long each time
LOGIN_DELAY_MAX_S = 8.0  # a mistake is told before clients give up
LOGIN_FAILURES_FORGOTTEN_S = 600.0  # without another one
LOGIN_ADDRESSES_MAX = 4096  # whose failures are remembered

# A pass of the listener.
RECEIVE_BYTES = 256 * KIB  # most that one connection is read in a pass
SLOT_BYTES = 512 * KIB  # of answers; then a connection goes on in the next pass. Less is dearer on one core
PASS_SECONDS_MAX = 0.003  # then its answers are sent
TURN_SECONDS_MAX = 0.005  # then trio's tasks have their turn
SPIN_S = 0.0002  # requests that come more often are waited for awake: twice what being woken on another core takes
LINGER_S = 0.001  # how long a turn waits for the next request; epoll counts in milliseconds
REQUESTS_PER_CHECK = 64  # single-record requests between two looks at the clock, some 100 µs
TOGETHER_MAX = 256  # of the same kind that are carried out together, as a batch: some 200 us
LARGE_RESULT_BYTES = 64 * KIB  # values that together are above it are encoded, and count as output, at once

# Memory of a node that was freed; see node.
MMAP_BYTES_MIN = 4 * MIB  # what is as large is a mapping of its own, which goes back to the system at once
FREED_BYTES_KEPT = 8 * MIB  # at the end of the heap of each thread that allocates, of which there are a few

# A channel.
CHANNELS_MAX = 4096  # default, per node: each costs memory, and lines in stats.log
RECORD_OVERHEAD_BYTES = 128  # what a record takes besides its key and value, measured (bench/README.md)

# A listener: one request that is told the changes of a channel.
LISTENERS_MAX = 1024  # per node: each makes every write to its channel dearer, and may hold what is below
LISTENER_BYTES_MAX = 1 * MIB  # keys and values that it has not been told yet; beyond, it loses them
LISTENER_CHANGES_MAX = 16384  # the same for small ones, some 1 ms to encode

# A queue.
PUSH_CHANNELS_MAX = 64  # of one push: each costs as much as a push of its own
POP_BYTES_MAX = 1 * MIB  # a pop many stops after the record that passes it
POP_WAIT_MS_MAX = 3_600_000  # a client that wants to wait longer asks again
CONSUMERS_MAX = 1024  # per node, as for listeners
SUBSCRIBERS_MAX = 64  # per channel: each push is stored once for each
UNACKNOWLEDGED_RANGES_MAX = 512  # of one consumer, where they do not follow each other: given back in 1 ms
ACKNOWLEDGED_NUMBERS_MAX = 1024  # in one acknowledge, two for each range of records: some 3 ms of a node's time

# A range of records with timestamps.
CURSOR_BYTES = 16  # a timestamp, and how many records with it
FILTER_BYTES_MAX = 1 * KIB  # of a substring, or of a regular expression: RE2 compiles any such in some 25 ms
RANGES_MAX = 1024  # read at a time, per node: each may hold some files open, and a filter of 1 MiB

# HTTP beside a node's requests: metrics and pages.
HTTP_CONNECTIONS_MAX = 64  # some programs watch a node, not thousands
HTTP_HEAD_BYTES_MAX = 16 * KIB  # of a request: method, path, headers
HTTP_IDLE_S = 10.0  # for a request's head to come, and between requests
HTTP_CONNECTION_S = 60.0  # from begin to end, whatever happens on it
HTTP_REQUESTS_PER_CONNECTION = 100
HTTP_PACE_S = 0.01  # from one connection, and from one request, to the next: at some 1 ms each a tenth of a core
HTTP_SHARED_S = 1.0  # a page that is dear to make is given to all who ask for it in this time
HTTP_CHANNELS_MAX = 200  # (or queues) that have metrics of their own: each is a time series for every one of them

# A batch in parts (put many with reserve).
RESERVED_SHARE = 1 / 2  # of memory_limit that is kept aside at most, for all batches together
RESERVE_TIMEOUT_S = 60.0  # what is kept aside and not used for so long, twice as long at most, is free again

# A client.
CLIENT_REQUESTS_MAX = 65536  # waiting for their answers, per connection
CLIENT_PARTS_BYTES = 2 * MIB  # parts of one batch on their way to a node at the same time
CLIENT_CONNECT_S = 0.25  # blocking: for a node that is not connected where others are; it is tried again later
RECEIVED_BYTES_KEPT = 2 * MIB  # of a connection's buffer, which grows with the frames that come
CLIENT_STREAM_CREDIT = 4  # batches in flight that keep a stream busy
TIMEOUT_S_MAX = 1e6  # of a request, 11 days: poll(2) counts milliseconds in 31 bits
CLIENT_SILENCE_S = 15.0  # nothing comes for so long, though a request's time was over: the connection is made anew
CLIENT_ASK_S = 10.0  # nothing comes for so long on a connection with a stream: a ping asks whether the node is there
BACKOFF_FIRST_S = 0.01  # before the first attempt to connect again, then twice as long each time
BACKOFF_MAX_S = 2.5

assert FRAME_BYTES_MAX >= 2 * VALUE_BYTES_MAX + KEY_BYTES_MAX + CHANNEL_LENGTH_MAX
assert HELLO_BYTES_MAX < BATCH_BYTES < FRAME_BYTES_PLAIN < FRAME_BYTES_MAX
assert ARRAY_ELEMENTS_MAX >= 2 * BATCH_RECORDS_MAX
assert 3 * FRAME_MESSAGES <= FRAME_ARRAYS_MAX
assert BATCH_BYTES <= OUTPUT_BYTES_MAX
assert SPIN_S < LINGER_S < TURN_SECONDS_MAX
assert max(LISTENER_BYTES_MAX, VALUE_BYTES_MAX) + VALUE_BYTES_MAX + 8 * LISTENER_CHANGES_MAX <= FRAME_BYTES_MAX
assert LISTENER_CHANGES_MAX >= BATCH_RECORDS_MAX
assert CLIENT_STREAM_CREDIT <= CREDIT_MAX
assert CLIENT_ASK_S < CLIENT_SILENCE_S
assert KEY_BYTES_MAX + 8 <= 511
assert LOGIN_DELAY_FIRST_S < LOGIN_DELAY_MAX_S < LOGIN_FAILURES_FORGOTTEN_S
