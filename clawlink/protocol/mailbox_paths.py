"""The endpoints of mailboxes: fetch messages, settle them, and look what became of them."""

from __future__ import annotations

from clawlink.protocol import headers, mailbox_replies, replies, requests
from clawlink.protocol.endpoint import Endpoint

POLL = Endpoint(
    "poll",
    "GET",
    "/poll/{agent_id}",
    "Claim messages.",
    mailbox_replies.Polled,
    query=requests.PollQuery,
    acts=True,
    claims=True,
)
POLL_AND_ACK = Endpoint(
    "poll_and_ack",
    "POST",
    "/poll/{agent_id}",
    "Settle messages, and claim the next.",
    mailbox_replies.PolledAndAcked,
    body=requests.PollAndAck,
    acts=True,
)
SOCKET = Endpoint(
    "socket",
    "GET",
    "/ws/{agent_id}",
    "Get messages, and act, over a websocket.",
    None,
    query=requests.StreamQuery,
    acts=True,
    text=True,
    stays=True,
    claims=True,
    socket=True,
)
EVENTS = Endpoint(
    "events",
    "GET",
    "/events/{agent_id}",
    "Get messages as server-sent events.",
    None,
    query=requests.EventsQuery,
    acts=True,
    text=True,
    stays=True,
    claims=True,
    ticket=True,
    headers=(headers.LAST_EVENT_ID,),
)
TICKETS = Endpoint(
    "tickets",
    "POST",
    "/tickets",
    "Get a ticket that opens one event stream without headers.",
    replies.TicketMade,
    body=requests.MakeTicket,
    acts=True,
)
ACK = Endpoint(
    "ack",
    "POST",
    "/ack",
    "Settle leased messages.",
    mailbox_replies.Receipted,
    body=requests.Ack,
    acts=True,
    use="receipts.ack",
    by="agent_id",
    receipts=True,
)
NACK = Endpoint(
    "nack",
    "POST",
    "/nack",
    "Give leased messages back.",
    mailbox_replies.Receipted,
    body=requests.Nack,
    acts=True,
    use="receipts.nack",
    by="agent_id",
    receipts=True,
)
EXTEND = Endpoint(
    "extend",
    "POST",
    "/extend",
    "Lengthen leases.",
    mailbox_replies.Receipted,
    body=requests.Extend,
    acts=True,
    use="receipts.extend",
    by="agent_id",
    receipts=True,
)
DEAD_LETTERS = Endpoint(
    "dead_letters",
    "GET",
    "/dead-letters/{agent_id}",
    "List dead letters.",
    mailbox_replies.DeadLetters,
    query=requests.ListQuery,
    acts=True,
    use="messages.dead_letters",
    by="agent_id",
)
REDRIVE = Endpoint(
    "redrive",
    "POST",
    "/redrive",
    "Put dead letters back.",
    mailbox_replies.Redriven,
    body=requests.Redrive,
    acts=True,
    use="messages.redrive",
    by="agent_id",
)
MESSAGE = Endpoint(
    "message",
    "GET",
    "/messages/{message_id}",
    "Show how far a message came.",
    mailbox_replies.MessageStatus,
    query=requests.MessageQuery,
    acts=True,
    headers=(headers.AGENT,),
    use="messages.status",
)
UNREAD = Endpoint(
    "unread",
    "GET",
    "/agents/{agent_id}/unread",
    "Show what waits in a mailbox, and lease nothing.",
    mailbox_replies.Unread,
    query=requests.UnreadQuery,
    acts=True,
    use="unread_mail.unread",
    by="agent_id",
    quiet=True,
)
WOKEN = Endpoint(
    "woken",
    "POST",
    "/messages/{message_id}/woken",
    "Store that an agent was woken for a message.",
    replies.WakeStored,
    body=requests.Woken,
    acts=True,
    use="unread_mail.woken",
    by="agent_id",
    quiet=True,
)

MAILBOX_ENDPOINTS = tuple(value for value in list(globals().values()) if isinstance(value, Endpoint))
