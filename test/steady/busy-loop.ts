// A process that keeps one core busy, and ends when the process that started it has ended.
const parent = process.ppid;
while (process.ppid === parent);
