// What is wrong with a file, as a sentence for the person who gave it.

export class ReadError extends Error {}
