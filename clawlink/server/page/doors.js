// The scripts with views of doors; the relay puts in those of its open doors.
export default [];
