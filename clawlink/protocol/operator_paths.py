"""The endpoints by which the operator of a relay acts; ``paths`` lists them with all others."""

from __future__ import annotations

from clawlink.protocol import file_replies, operating, replies
from clawlink.protocol.endpoint import Endpoint

STOP_ALL = Endpoint(
    "stop_all",
    "POST",
    "/admin/stop",
    "Stop all new work and all claims, or let them go on, as the operator.",
    operating.Standing,
    body=operating.StopAll,
    admin=True,
    keyless=True,
    use="stops.switch",
    audited="status",
)
DELEGATE_AS = Endpoint(
    "delegate_as_operator",
    "POST",
    "/admin/delegate",
    "Delegate a task, as the operator.",
    replies.Delegated,
    body=operating.OperatorTask,
    admin=True,
    keyless=True,
    use="operator.delegate",
    audited="message_id",
)
SEND_AS = Endpoint(
    "send_as_operator",
    "POST",
    "/admin/send",
    "Send a message, as the operator.",
    replies.Sent,
    body=operating.OperatorMessage,
    admin=True,
    keyless=True,
    use="operator.send",
    audited="message_id",
)
BROADCAST_AS = Endpoint(
    "broadcast_as_operator",
    "POST",
    "/admin/broadcast",
    "Broadcast, as the operator.",
    replies.BroadcastSent,
    body=operating.OperatorBroadcast,
    admin=True,
    keyless=True,
    use="operator.broadcast",
    audited="message_id",
)
ANSWER_AS = Endpoint(
    "answer_as_operator",
    "POST",
    "/admin/tasks/{task_id}/answer",
    "Answer the question of a task, as the operator.",
    replies.Answered,
    body=operating.OperatorAnswer,
    admin=True,
    keyless=True,
    use="operator.answer",
    audited="task_id",
)
CANCEL_AS = Endpoint(
    "cancel_as_operator",
    "POST",
    "/admin/tasks/{task_id}/cancel",
    "Cancel a task, as the operator.",
    replies.Cancelled,
    body=operating.OperatorCancel,
    admin=True,
    keyless=True,
    use="operator.cancel",
    audited="task_id",
)
RESPOND_AS = Endpoint(
    "respond_as_operator",
    "POST",
    "/admin/tasks/{task_id}/respond",
    "Answer a task that was delegated to the operator.",
    replies.ResponseSent,
    body=operating.OperatorReport,
    admin=True,
    keyless=True,
    use="operator.respond",
    audited="message_id",
)
REDRIVE_ALL = Endpoint(
    "redrive_all",
    "POST",
    "/admin/redrive-all",
    "Put dead letters of all mailboxes back, as the operator.",
    operating.RedrivenAll,
    body=operating.RedriveAll,
    admin=True,
    keyless=True,
    use="operator.redrive_all",
    audited="status",
)
UNLOCK_AS = Endpoint(
    "unlock_as_operator",
    "POST",
    "/admin/unlock",
    "End the lock of a file, as the operator.",
    file_replies.FileUnlocked,
    body=operating.Unlock,
    admin=True,
    keyless=True,
    use="operator.unlock",
    audited="file_key",
)
RENAME_AGENT = Endpoint(
    "rename_agent",
    "POST",
    "/admin/rename",
    "Give an agent another name.",
    operating.Renamed,
    body=operating.Rename,
    admin=True,
    keyless=True,
    use="operator.rename",
    audited="agent_id",
)
INBOX = Endpoint(
    "inbox",
    "GET",
    "/admin/inbox",
    "Show the messages to the operator.",
    operating.Inbox,
    query=operating.InboxQuery,
    admin=True,
    keyless=True,
    use="operator.inbox",
)
PUT_AWAY = Endpoint(
    "put_away",
    "POST",
    "/admin/inbox",
    "Put messages to the operator away.",
    operating.IsPutAway,
    body=operating.PutAway,
    admin=True,
    keyless=True,
    use="operator.put_away",
    audited="status",
)

OPERATOR_ENDPOINTS: tuple[Endpoint, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Endpoint)
)
