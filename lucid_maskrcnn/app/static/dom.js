// Small things that the other scripts share.

export const $ = (id) => document.getElementById(id);

export const round = (number) => Number(number.toPrecision(3)).toString();

export const objectsOf = (number) => `${number} ${number === 1 ? "object" : "objects"}`;

export const isPhone = () => matchMedia("(max-width: 720px)").matches;
