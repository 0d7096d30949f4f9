// What is shown now.

export const page = {
  result: null, // name, width, height, objects, and what is said of the prediction
  shown: [], // objects that pass the filter
  hidden: new Set(), // numbers of objects that were switched off one by one
  current: null, // number of the object that is pointed at
  view: null, // part of the image that is seen: x, y, width, height
};
