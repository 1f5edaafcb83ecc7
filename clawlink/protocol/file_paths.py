"""The endpoints of shared files and their uploads: rows as in ``paths``."""

from __future__ import annotations

from clawlink.protocol import file_replies, file_requests, headers, requests
from clawlink.protocol.endpoint import Endpoint

PUT_FILE = Endpoint(
    "put_file",
    "POST",
    "/files",
    "Write a shared file.",
    file_replies.FilePut,
    body=file_requests.PutFile,
    acts=True,
    use="json_files.put",
    by="agent_id",
    registers=True,
)
LIST_FILES = Endpoint(
    "list_files",
    "GET",
    "/files",
    "List shared files.",
    file_replies.FileList,
    query=file_requests.FilesQuery,
    looks=True,
    headers=(headers.AGENT,),
    use="file_reads.list",
)
GET_FILE = Endpoint(
    "get_file",
    "GET",
    "/files/{file_key}",
    "Read a shared file.",
    file_replies.FileContent,
    query=requests.Asker,
    looks=True,
    headers=(headers.AGENT,),
)
DELETE_FILE = Endpoint(
    "delete_file",
    "DELETE",
    "/files/{file_key}",
    "Delete a shared file.",
    file_replies.FileDeleted,
    query=file_requests.DeleteFileQuery,
    acts=True,
    headers=(headers.AGENT,),
    use="json_files.delete",
)
PUT_BLOB = Endpoint(
    "put_blob",
    "PUT",
    "/blobs/{file_key}",
    "Write a shared file as it is.",
    file_replies.FileSaved,
    acts=True,
    takes_bytes=True,
    headers=headers.PUT_BLOB,
    tells=("ETag",),
)
LIST_BLOBS = Endpoint(
    "list_blobs",
    "GET",
    "/blobs",
    "List shared files.",
    file_replies.FileList,
    query=file_requests.FilesQuery,
    looks=True,
    headers=(headers.AGENT,),
    use="file_reads.list",
)
GET_BLOB = Endpoint(
    "get_blob",
    "GET",
    "/blobs/{file_key}",
    "Read a shared file as it is, or list its versions.",
    None,
    query=file_requests.BlobQuery,
    looks=True,
    text=True,
    gives_bytes=True,
    headers=headers.GET_BLOB,
    tells=headers.OF_A_FILE,
)
HEAD_BLOB = Endpoint(
    "head_blob",
    "HEAD",
    "/blobs/{file_key}",
    "Show the facts of a shared file.",
    None,
    query=file_requests.BlobQuery,
    looks=True,
    text=True,
    gives_bytes=True,
    headers=headers.HEAD_BLOB,
    tells=headers.OF_A_FILE,
)
DELETE_BLOB = Endpoint(
    "delete_blob",
    "DELETE",
    "/blobs/{file_key}",
    "Delete a shared file, or confirm that it was read.",
    file_replies.FileDeleted,
    query=file_requests.DropBlobQuery,
    acts=True,
    headers=headers.DELETE_BLOB,
)
LOCK_FILE = Endpoint(
    "lock_file",
    "POST",
    "/locks",
    "Ask the other agents not to write a file.",
    file_replies.FileLocked,
    body=file_requests.LockFile,
    acts=True,
    use="files.lock",
    by="agent_id",
)
UNLOCK_FILE = Endpoint(
    "unlock_file",
    "DELETE",
    "/locks/{file_key}",
    "Give a lock up.",
    file_replies.FileUnlocked,
    query=file_requests.UnlockQuery,
    acts=True,
    headers=(headers.AGENT,),
    use="files.unlock",
)
UPLOAD_OPTIONS = Endpoint(
    "upload_options",
    "OPTIONS",
    "/uploads",
    "Show the supported parts of tus 1.0.0.",
    None,
    open=True,
    text=True,
    empty=True,
    tells=("Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"),
)
CREATE_UPLOAD = Endpoint(
    "create_upload",
    "POST",
    "/uploads",
    "Begin a resumable upload.",
    None,
    acts=True,
    text=True,
    empty=True,
    takes_bytes=True,
    headers=headers.CREATE_UPLOAD,
    tells=("Location", *headers.OF_AN_UPLOAD),
)
UPLOAD_OFFSET = Endpoint(
    "upload_offset",
    "HEAD",
    "/uploads/{upload_id}",
    "Show how much of an upload has come.",
    None,
    acts=True,
    text=True,
    empty=True,
    headers=headers.UPLOAD,
    tells=("Upload-Length", "Upload-Defer-Length", "Upload-Metadata", *headers.OF_AN_UPLOAD),
)
UPLOAD_PART = Endpoint(
    "upload_part",
    "PATCH",
    "/uploads/{upload_id}",
    "Go on.",
    None,
    acts=True,
    text=True,
    empty=True,
    takes_bytes=True,
    headers=headers.UPLOAD_PART,
    tells=headers.OF_AN_UPLOAD,
)
END_UPLOAD = Endpoint(
    "end_upload",
    "DELETE",
    "/uploads/{upload_id}",
    "Give it up.",
    None,
    acts=True,
    text=True,
    empty=True,
    headers=headers.UPLOAD,
    tells=("Tus-Resumable",),
)
UPLOAD_OTHERWISE = Endpoint(
    "upload_otherwise",
    "POST",
    "/uploads/{upload_id}",
    "Send another method, by the header X-HTTP-Method-Override.",
    None,
    acts=True,
    text=True,
    empty=True,
    takes_bytes=True,
    headers=headers.UPLOAD_OTHERWISE,
    tells=headers.OF_AN_UPLOAD,
)

FILE_ENDPOINTS: tuple[Endpoint, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Endpoint))
